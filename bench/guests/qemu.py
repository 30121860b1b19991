"""A QEMU guest with one vhost-user network device, driven over its second serial port (scripts/guest/agent)."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

from bench.guests.agent import serial_options
from bench.guests.cores import on_guest_cores
from bench.guests.kernel import WORDS, unpacked
from bench.guests.networked import NetworkedGuest
from bench.guests.newest import newest, program
from fastvhost.control.kinds.cuse import open_files, tap_options
from fastvhost.control.open_taps import open_taps

QEMU = "qemu-system-x86_64"
GUEST_IMAGE = Path(__file__).parents[2] / "scripts" / "guest-image"

MADE = "FASTVHOST_GUEST"
"""An environment variable with kernel and initramfs, for where they cannot be made."""
MEMORY_SIZE = "192M"
SLOT, CARD = "slot0", "card0"
"""The slot of a network device that can be unplugged, and the device's id."""
# The guest's memory backend: shared, as it must be; a file, but not shared; anonymous, QEMU's default.
Memory: TypeAlias = Literal["shared", "private", "anonymous", "hugepages"]
MEMORY_OPTIONS: dict[Memory, list[str]] = {
    "shared": ["-object", f"memory-backend-memfd,id=m0,size={MEMORY_SIZE},share=on"],
    "private": ["-object", f"memory-backend-memfd,id=m0,size={MEMORY_SIZE},share=off"],
    "anonymous": [],
    "hugepages": ["-object", f"memory-backend-file,id=m0,size={MEMORY_SIZE},share=on,mem-path=/dev/hugepages"],
}


@functools.cache
def guest_image(kind: str = "guest") -> tuple[str, str]:
    """Kernel and initramfs of the test guest, built when they are not in the cache. "outer": of the one around it."""
    if kind == "guest" and (made := os.environ.get(MADE)):
        kernel, initramfs = made.split(":")
        return kernel, initramfs
    answer = subprocess.run([GUEST_IMAGE, kind], stdout=subprocess.PIPE, text=True, check=True, timeout=240)
    kernel, initramfs = answer.stdout.split()
    return kernel, initramfs


def boot_words(kernel_words: str, *, packed: bool = False) -> list[str]:
    """QEMU's options that start the test guest's kernel with this command line.

    packed: use the image that unpacks itself.
    """
    kernel, initramfs = guest_image()
    return ["-kernel", kernel if packed else unpacked(kernel), "-initrd", initramfs, "-append", kernel_words]


@dataclass(frozen=True)
class Qemu:
    """The QEMU that runs a guest, and options of its version. The default is this machine's, Debian's 7.2."""

    words: tuple[str, ...] = (QEMU,)
    reconnect: str = "reconnect=1"
    vectors: str = "vectors=0"
    """Options of the device: 7.2 without KVM crashes when a vhost-user device uses MSI-X."""


def newest_qemu() -> Qemu:
    """Debian testing's, 11.1 or newer, with its firmware; fetched when it is not in the cache."""
    words = program("qemu", f"usr/bin/{QEMU}", 900)
    for place in ("qemu", "seabios"):
        words += ["-L", str(newest("qemu") / "usr" / "share" / place)]
    return Qemu(tuple(words), "reconnect-ms=1000", "")  # it knows no `reconnect=` any more


class Options(TypedDict, total=False):
    """Options of a guest, with defaults."""

    server: bool
    memory: Memory
    queue_pairs: int
    device: str
    device_file: bool


@dataclass(frozen=True)
class Machine:
    """The configuration of a guest; the same one can be started again after its end."""

    name: str
    socket: Path
    number: int
    """The last byte of its IP and MAC address."""
    server: bool = False
    """QEMU listens on the socket, and fwd connects."""
    memory: Memory = "shared"
    queue_pairs: int = 1
    """As many as the guest has processors, so that its driver uses them all."""
    device: str = ""
    """More properties of the network device, such as "packed=on"."""
    kind: str = "virtio-net-pci"
    unplugged: bool = False
    """It has its network device, without a back-end."""
    state: Path | None = None
    """A saved state from which it goes on instead of booting (snapshot.py)."""
    tap: str = ""
    """An interface of this host instead of the socket, driven by QEMU, or with vhost by the kernel."""
    vhost: bool = False
    qemu: Qemu = Qemu()
    from_network: bool = False
    """It boots over the network by the card's iPXE, not from a kernel file. See kernel_words."""
    pluggable: bool = False
    """The network device is in a slot and can be unplugged."""
    device_file: bool = False
    """The path is vhost-net's device file, or one like it, and no socket: the guest has a tap with vhost=on."""

    @property
    def port(self) -> str:
        """The port that the guest needs, as --port says it."""
        if self.device_file:
            return f"cuse:{self.socket.name},queues={self.queue_pairs},name={self.name}"
        mode = "client" if self.server else "server"
        return f"vhost-user:{self.socket},mode={mode},queues={self.queue_pairs}"

    @property
    def address(self) -> str:
        return f"10.0.0.{self.number}"

    def command(self, directory: Path) -> list[str]:
        goes_on = self.unplugged or bool(self.state)  # then the kernel is not started; the small image saves disk time
        machine = "q35" if self.memory == "anonymous" else "q35,memory-backend=m0"
        machine += ",graphics=off" * self.from_network  # its firmware says on the console what it does
        # No KVM: usual kernels hang under a virtual machine's /dev/kvm.
        return self._opening() + on_guest_cores(
            *self.qemu.words, "-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "max",
            "-m", f"{MEMORY_SIZE},slots=1,maxmem=1G", "-smp", str(self.queue_pairs),
            *MEMORY_OPTIONS[self.memory], "-machine", machine,
            *([] if self.from_network else boot_words(self.kernel_words, packed=goes_on)),
            *serial_options(directory, self.name),
            *self._netdev(),
            *(["-incoming", f"exec:cat {self.state}"] if self.state else []),
            *(["-device", f"pcie-root-port,id={SLOT},chassis=1"] if self.pluggable else []),
            "-device", ",".join([self.kind, *self.device_words]),
            "-qmp", f"unix:{directory / self.name}.monitor,server=on,wait=off",
        )  # fmt: skip

    @property
    def device_words(self) -> list[str]:
        """The properties of its network device."""
        device = ["netdev=n0", f"mac=52:54:00:00:00:{self.number:02x}"]
        device += [self.qemu.vectors] * (self.kind != "e1000" and bool(self.qemu.vectors))
        if self.kind != "e1000" and (self.unplugged or self.state):
            # Features that not every back-end has; a guest that moves to another one must not have negotiated them.
            device += ["guest_announce=off", "queue_reset=off"]
        device += ["mq=on"] * (self.queue_pairs > 1) + [self.device] * bool(self.device)
        device += [f"id={CARD}", f"bus={SLOT}"] * self.pluggable + ["bootindex=1"] * self.from_network
        return device

    @property
    def kernel_words(self) -> str:
        """The kernel's command line."""
        # swiotlb=noforce: memory that may be plugged in high up would cost 64 MiB of bounce buffers.
        return f"{WORDS} swiotlb=noforce guest_address={self.address}/24 guest_mtu=9000"

    def _netdev(self) -> list[str]:
        if self.unplugged:
            # QEMU's hub has one queue only.
            several = f"tap,id=n0,script=no,downscript=no,vnet_hdr=off,queues={self.queue_pairs}"
            return ["-netdev", several if self.queue_pairs > 1 else "hubport,id=n0,hubid=0"]
        if self.tap:
            vhost = "on" if self.vhost else "off"
            return ["-netdev", f"tap,id=n0,ifname={self.tap},script=no,downscript=no,vnet_hdr=off,vhost={vhost}"]
        if self.device_file:
            return ["-netdev", f"tap,id=n0,vhost=on,{tap_options(*open_files(self.queue_pairs))}"]
        link = "server=on,wait=off" if self.server else self.qemu.reconnect
        return [
            "-chardev", f"socket,id=c0,path={self.socket},{link}",
            "-netdev", f"vhost-user,id=n0,chardev=c0,queues={self.queue_pairs}",
        ]  # fmt: skip

    def _opening(self) -> list[str]:
        """The shell words that open these files before QEMU starts."""
        if not self.device_file:
            return []
        fds, taps = open_files(self.queue_pairs)
        opened = " ".join(f"{fd}<>{self.socket}" for fd in fds)
        shell = ["bash", "-c", f"exec {opened}; exec \"$@\"", "bash"]
        return shell + [sys.executable, "-c", open_taps(taps)] * (self.queue_pairs > 1)


class Guest(NetworkedGuest):
    """A running guest with a vhost-user port."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        self.monitor_path = directory / f"{machine.name}.monitor"
        super().__init__(machine.name, machine.command(directory), directory)

    @property
    def address(self) -> str:
        return self.machine.address

    def reboot(self) -> None:
        """Start the guest anew from inside, at once, its interface down as an init leaves it. `wait_ready` afterwards.

        Debian's 6.1.192 sends in an endless loop if a program still sends while it resets its virtio devices.
        Frames to the guest still arrive until then.
        """
        self._send("ifconfig eth0 down; reboot -f", 5)

    def monitor(self, command: str, **arguments: object) -> None:
        """A command to QEMU's monitor (QMP)."""
        self.ask_monitor(command, **arguments)

    def ask_monitor(self, command: str, **arguments: object) -> Any:
        """The same, and what it answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(30)
            connection.connect(str(self.monitor_path))
            with connection.makefile("rw") as qmp:
                qmp.readline()  # a greeting
                for execute, with_arguments in (("qmp_capabilities", {}), (command, arguments)):
                    qmp.write(json.dumps({"execute": execute, "arguments": with_arguments}) + "\n")
                    qmp.flush()
                    while "event" in (answer := json.loads(qmp.readline())):
                        pass
                    assert "return" in answer, f"{self.name}: {execute}: {answer}"
            return answer["return"]
