"""Guests that need not boot: one boots once and its state is kept; others go on from that state.

In a guest of an outer guest, whose processors are emulated twice, a boot takes minutes and this takes seconds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from bench.guests.qemu import QEMU, Guest, Machine, guest_image
from bench.guests.short_dir import short_dir
from bench.guests.waits import wait_until


def snapshot(machine: Machine) -> Path:
    """The state of such a machine after its boot, from the cache, or made now."""
    kept = Machine("kept", Path("none"), 9, kind=machine.kind, queue_pairs=machine.queue_pairs, unplugged=True)
    cache = Path(guest_image()[0]).parent.parent
    command = kept.command(Path("/"))
    command = command[command.index(QEMU) :]
    qemu = Path(shutil.which(QEMU) or QEMU).stat()
    key = hashlib.sha256(repr((command, qemu.st_size, int(qemu.st_mtime))).encode()).hexdigest()[:12]
    path = cache / f"state-{key}"
    if not path.exists():
        with short_dir() as directory, Guest(kept, directory) as guest:
            guest.wait_ready()
            fresh = path.with_suffix(f".{os.getpid()}")
            guest.monitor("migrate", uri=f"exec:cat > {fresh}")
            deadline = time.monotonic() + 60
            while (status := guest.ask_monitor("query-migrate")["status"]) not in ("completed", "failed"):
                assert time.monotonic() < deadline, status
                time.sleep(0.1)
            assert status == "completed", guest.ask_monitor("query-migrate")
            subprocess.run(["mv", "-T", fresh, path], check=True, timeout=10)
    return path


class WokenGuest(Guest):
    """A guest that goes on from a snapshot. Its addresses are set anew."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        super().__init__(replace(machine, state=snapshot(machine)), directory)

    def wake(self, seconds: float = 60) -> WokenGuest:
        """Wait until it answers, and give it its own addresses."""
        number = self.machine.number
        # Data sent to its serial port before would be lost.
        wait_until(f"{self.name} runs", seconds, self._runs)
        # Asking for an address ends after three seconds, which emulated guests may take: let it ask for a minute.
        self.run("for tries in mcast ucast; do echo 60 > /proc/sys/net/ipv4/neigh/eth0/${tries}_solicit; done", seconds)
        self.run(
            f"ip link set eth0 down; ip link set eth0 address 52:54:00:00:00:{number:02x}; "
            f"ip address flush dev eth0; ip address add {self.address}/24 dev eth0; ip link set eth0 up",
            seconds,
        )
        return self

    def _runs(self) -> bool:
        self.check_running()
        try:
            return bool(self.ask_monitor("query-status")["running"])
        except (FileNotFoundError, ConnectionRefusedError):
            return False  # its monitor is not there yet
