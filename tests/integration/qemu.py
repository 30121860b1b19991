"""A QEMU guest with one vhost-user network device, driven over its second serial port (scripts/guest/agent)."""

from __future__ import annotations

import functools
import json
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from tests.integration.cores import on_guest_cores
from tests.integration.process import Process, last_lines
from tests.integration.waits import wait_until

GUEST_IMAGE = Path(__file__).parents[2] / "scripts" / "guest-image"
RECORD_SEPARATOR = b"\x1e"
READY = RECORD_SEPARATOR + b"ready\n"

MEMORY_SIZE = "192M"
# How the guest's memory is backed: shared as it must be; by a file, but not shared; anonymous, QEMU's default.
Memory: TypeAlias = Literal["shared", "private", "anonymous"]
MEMORY_OPTIONS: dict[Memory, list[str]] = {
    "shared": ["-object", f"memory-backend-memfd,id=m0,size={MEMORY_SIZE},share=on"],
    "private": ["-object", f"memory-backend-memfd,id=m0,size={MEMORY_SIZE},share=off"],
    "anonymous": [],
}


class CommandFailed(AssertionError):
    """A command in the guest ended with another status than 0."""


@functools.cache
def guest_image() -> tuple[str, str]:
    """Kernel and initramfs of the test guest, built when they are not in the cache."""
    answer = subprocess.run([GUEST_IMAGE], stdout=subprocess.PIPE, text=True, check=True, timeout=240)
    kernel, initramfs = answer.stdout.split()
    return kernel, initramfs


class Options(TypedDict, total=False):
    """What can be unusual about a guest."""

    server: bool
    memory: Memory
    queue_pairs: int
    device: str


@dataclass(frozen=True)
class Machine:
    """What a guest is made of; the same one can be started again after its end."""

    name: str
    socket: Path
    number: int
    """The last byte of its IP and MAC addresses."""
    server: bool = False
    """QEMU listens on the socket, and fwd connects."""
    memory: Memory = "shared"
    queue_pairs: int = 1
    """As many as the guest has processors, so that its driver uses them all."""
    device: str = ""
    """More properties of the network device, such as "packed=on"."""

    @property
    def port(self) -> str:
        """The port that the guest needs, as --port says it."""
        mode = "client" if self.server else "server"
        return f"vhost-user:{self.socket},mode={mode},queues={self.queue_pairs}"

    @property
    def address(self) -> str:
        return f"10.0.0.{self.number}"

    def command(self, console: Path, agent: Path, monitor: Path) -> list[str]:
        kernel, initramfs = guest_image()
        machine = "q35" if self.memory == "anonymous" else "q35,memory-backend=m0"
        link = "server=on,wait=off" if self.server else "reconnect=1"
        device = ["netdev=n0", f"mac=52:54:00:00:00:{self.number:02x}", "vectors=0"]
        device += ["mq=on"] * (self.queue_pairs > 1) + [self.device] * bool(self.device)
        # swiotlb=noforce: memory that may be plugged in high up would cost 64 MiB of bounce buffers.
        boot = f"console=ttyS0 quiet swiotlb=noforce guest_address={self.address}/24 guest_mtu=9000"
        # No KVM: ordinary kernels hang under a virtual machine's /dev/kvm. vectors=0: QEMU 7.2 without KVM crashes when
        # a vhost-user device uses MSI-X.
        return on_guest_cores(
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "max",
            "-m", f"{MEMORY_SIZE},slots=1,maxmem=1G", "-smp", str(self.queue_pairs),
            *MEMORY_OPTIONS[self.memory], "-machine", machine,
            "-kernel", kernel, "-initrd", initramfs,
            "-append", boot,
            "-serial", f"file:{console}",
            "-chardev", f"socket,id=agent,path={agent},server=on,wait=off", "-serial", "chardev:agent",
            "-chardev", f"socket,id=c0,path={self.socket},{link}",
            "-netdev", f"vhost-user,id=n0,chardev=c0,queues={self.queue_pairs}",
            "-device", ",".join(["virtio-net-pci", *device]),
            "-qmp", f"unix:{monitor},server=on,wait=off",
        )  # fmt: skip


class Guest(Process):
    """A running guest. `run` a command in it; the output comes back, or CommandFailed."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self._agent_path = directory / f"{machine.name}.agent"
        self._console_path = directory / f"{machine.name}.console"
        self._monitor_path = directory / f"{machine.name}.monitor"
        self._agent_path.unlink(missing_ok=True)
        self._agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""
        self._commands = 0
        super().__init__(
            machine.name, machine.command(self._console_path, self._agent_path, self._monitor_path), directory
        )
        # At once: QEMU throws away what the guest says while nobody is connected.
        wait_until(f"{self.name} opens its serial port", 30, self._connect)

    @property
    def address(self) -> str:
        return self.machine.address

    def report(self) -> dict[str, str]:
        console = self._console_path.read_text(errors="replace") if self._console_path.exists() else ""
        return {**super().report(), f"{self.name}'s console": last_lines(console)}

    def wait_ready(self, seconds: float = 120) -> Guest:
        """Wait until the guest has started, or started again, and its shell answers."""
        self._receive_until(READY, seconds, f"{self.name} starts")
        return self

    def run(self, command: str, seconds: float = 20) -> str:
        """Run a shell command in the guest, there ended after so many seconds. Returns its output."""
        self._send(command, seconds)
        # The command is bounded by the guest's clock, which runs late when the host has no time for it.
        mark = RECORD_SEPARATOR + b"%d " % self._commands
        output = self._receive_until(mark, seconds + 20, f"{self.name} ends '{command}'").decode()
        status = self._receive_until(b"\n", 5, f"{self.name} tells the status of '{command}'")
        if status != b"0":
            raise CommandFailed(f"{self.name}: '{command}' ended with {status.decode()}: {last_lines(output, 5)}")
        return output

    def reboot(self) -> None:
        """Start the guest anew from inside, at once. `wait_ready` afterwards."""
        self._send("reboot -f", 5)

    def monitor(self, command: str, **arguments: object) -> None:
        """A command to QEMU's monitor (QMP)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(30)
            connection.connect(str(self._monitor_path))
            with connection.makefile("rw") as qmp:
                qmp.readline()  # a greeting
                for execute, with_arguments in (("qmp_capabilities", {}), (command, arguments)):
                    qmp.write(json.dumps({"execute": execute, "arguments": with_arguments}) + "\n")
                    qmp.flush()
                    while "event" in (answer := json.loads(qmp.readline())):
                        pass
                    assert "return" in answer, f"{self.name}: {execute}: {answer}"

    def boot_id(self) -> str:
        """Differs between any two starts of a guest."""
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def ping(self, other: Guest, count: int, *, bytes: int = 56) -> int:
        """How many of so many pings the other guest answered. Each is sent when the one before was answered."""
        answers = re.search(
            r"(\d+) packets received", self.run(f"ping -A -q -c {count} -s {bytes} -W 2 {other.address}; true", 30)
        )
        assert answers is not None
        return int(answers[1])

    def wait_answer(self, other: Guest, seconds: float) -> float:
        """Ping until the other guest answers once. Returns after how many seconds it did."""
        start = time.monotonic()
        wait_until(f"{other.name} answers {self.name}'s ping", seconds, lambda: self._answers(other))
        return time.monotonic() - start

    def _answers(self, other: Guest) -> bool:
        return " 1 packets received" in self.run(f"ping -q -c 1 -W 1 {other.address}; true", 5)

    def _connect(self) -> bool:
        self.check_running()
        try:
            self._agent.connect(str(self._agent_path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def _send(self, command: str, seconds: float) -> None:
        assert "\n" not in command
        self._commands += 1
        self._agent.sendall(f"{self._commands} {seconds:.0f} {command}\n".encode())

    def _receive_until(self, mark: bytes, seconds: float, what: str) -> bytes:
        deadline = time.monotonic() + seconds
        while mark not in self._received:
            self._agent.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                part = self._agent.recv(65536)
            except TimeoutError:
                self.check_running()
                raise AssertionError(f"not within {seconds:g} s: {what}") from None
            if not part:
                self.popen.wait(5)
                self.check_running()
            self._received += part
        before, _, self._received = self._received.partition(mark)
        return before

    def __exit__(self, *_: object) -> None:
        self._agent.close()
        super().__exit__()
