"""A guest under user-mode Linux: a Linux kernel as a process, with its own virtio-net driver, at native speed.

It is a vhost-user front-end itself, and starts in about half a second. Its files are this machine's, read only.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.guests.cores import on_guest_cores
from bench.guests.networked import NetworkedGuest
from bench.guests.newest import LIBRARIES, newest
from fastvhost.cli.example import lines
from fastvhost.control.port_text import parse

SCRIPTS = Path(__file__).parents[2] / "scripts"
MEMORY_SIZE = "128M"
MTU = 9000


@dataclass(frozen=True)
class UmlMachine:
    """The configuration of a guest; the same one can be started again after its end."""

    name: str
    socket: Path
    number: int
    """The last byte of its IP and MAC address."""
    queue_pairs: int = 1
    without: str = ""
    """Features that its port does not offer, since its driver acknowledges all that it knows."""
    told: bool = False
    """Whether its port tells it MAC and MTU; otherwise it sets them itself."""

    @property
    def port(self) -> str:
        """The port that the guest needs, as --port says it."""
        without = f",without={self.without}" if self.without else ""
        device = f",mac={self.mac},mtu={MTU}" if self.told else ""
        return f"vhost-user:{self.socket},queues={self.queue_pairs}{without}{device}"

    @property
    def address(self) -> str:
        return f"10.0.0.{self.number}"

    @property
    def mac(self) -> str:
        return f"52:54:00:00:00:{self.number:02x}"

    def command(self, directory: Path, serial_fd: int) -> list[str]:
        """serial_fd: the guest's end of its serial port."""
        root = newest("uml")
        # As `fastvhost example uml` prints it, but for the disk.
        said = lines("uml", parse(self.port), MEMORY_SIZE).replace("\\\n", "")
        temporary, program, memory, device, *_disk = shlex.split(said)
        return on_guest_cores(
            "env", f"LD_LIBRARY_PATH={root / LIBRARIES}", temporary,
            str(root / "usr/bin" / program), memory, device, f"uml_dir={directory}", f"umid={self.name}.uml",
            "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={SCRIPTS / 'uml' / 'init'}",
            "con=null", "con0=null,fd:1", "ssl=null", f"ssl0=fd:{serial_fd}", "quiet",
            f"guest_address={self.address}/24", *(() if self.told else (f"guest_mac={self.mac}", f"guest_mtu={MTU}")),
            f"guest_modules={root / 'usr/lib/uml/modules'}", f"guest_agent={SCRIPTS / 'guest' / 'agent'}",
            f"guest_shared={directory}",
        )  # fmt: skip


class UmlGuest(NetworkedGuest):
    """A running guest. Its console is its log."""

    def __init__(self, machine: UmlMachine, directory: Path) -> None:
        self.machine = machine
        ours, its = socket.socketpair()
        with its:
            command = machine.command(directory, its.fileno())
            super().__init__(machine.name, command, directory, pass_fds=[its.fileno()], channel=ours)

    @property
    def address(self) -> str:
        return self.machine.address

    def power_off(self, seconds: float = 10) -> int:
        """Have it shut down by itself. Returns its exit status."""
        self._send("poweroff -f", 5)
        return self.popen.wait(seconds)

    def stop(self, seconds: float = 5.0) -> int:
        """Power off, then SIGKILL: at SIGTERM this kernel stops where it is, often with a panic."""
        if self.popen.poll() is None:
            try:
                return self.power_off(seconds)
            except (OSError, subprocess.TimeoutExpired):
                self.kill()
        return self.popen.returncode
