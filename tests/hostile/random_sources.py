"""A guest that sends frames to everybody as fast as it can, each from another random source address.

It has thousands of buffers, all of them in its ring, and goes round: it sends as many frames as there are, and writes
new sources into all of them. The worker takes them meanwhile, so some sources change while they are looked at.
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import time
from array import array
from itertools import pairwise
from pathlib import Path

from bench.guest_crowd import EVERYBODY, mac, starts_of_frames
from bench.guests.waits import MAX_WAIT
from fastvhost.backend.payload import SharedRegion
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import FrontEnd
from fastvhost.driver.load import Load
from fastvhost.driver.settings import PairSettings
from tests.frontend import readable
from tests.hostile.rings import FORMATS

SLOTS, A_STEP = 16384, 64
RANDOM_AT, RANDOM_BYTES = 8, 4
"""In a frame: the last bytes of its source, of which there are 4,294,967,296."""
PREFIX = b"\x02\xaa"
"""With which its sources begin."""


class RandomSources:
    """The process, which sends from the beginning to its end."""

    def __init__(self, path: Path, ring: str, core: int) -> None:
        command = [sys.executable, "-m", "tests.hostile.random_sources", str(path), ring, str(core)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_running(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "\n"

    def end(self) -> tuple[int, int]:
        """Have it send no more. Returns frames that it sent, and sources that it wrote."""
        out, _ = self._process.communicate(timeout=MAX_WAIT)
        assert self._process.returncode == 0
        frames, sources = map(int, out.split())
        return frames, sources

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Sender:
    """Its device."""

    def __init__(self, path: str, ring: str) -> None:
        own = FORMATS[ring]
        settings = PairSettings(
            queue_size=SLOTS, content="none", buffer_bytes=128, packed=own.packed, in_order=own.in_order, huge=False
        )
        self._front_end = FrontEnd(path, timeout=MAX_WAIT)
        self._front_end.connect()
        self._device = GuestDevice(settings, features=int(self._front_end.negotiate(settings.wish)), tag=1, peer_tag=2)
        starts = list(starts_of_frames(self._device, mac(0)))
        for at in starts:
            self._device.ram.write(at, EVERYBODY + PREFIX)
        (self._stride,) = {after - before for before, after in pairwise(starts)}
        self._words = memoryview(mmap.mmap(self._device.ram.fd, self._device.ram.bytes)).cast("I")
        self._first = starts[0] + RANDOM_AT
        self._load = Load(self._device)
        self.sources = 0
        self._change_sources()
        self._start_rings(settings.queue_size)

    def _start_rings(self, size: int) -> None:
        device, ram = self._device, self._device.ram
        self._front_end.share_memory(ram.fd, SharedRegion(ram.guest_addr, ram.bytes, ram.user_addr, 0))
        for index in range(2):
            fds = device.kick_fds[index], device.call_fds[index]
            self._front_end.start_ring(index, size, device.ring_addresses(index), *fds, device.base)
        for index in range(2):
            self._front_end.enable_ring(index)

    def _change_sources(self) -> None:
        """In all slots."""
        first, step = self._first // RANDOM_BYTES, self._stride // RANDOM_BYTES
        words = array("I", random.randbytes(SLOTS * RANDOM_BYTES))
        self._words[first : first + SLOTS * step : step] = memoryview(words)
        self.sources += SLOTS

    def send(self, until: int) -> None:
        """Until this descriptor can be read, or is closed at its other end; then until all buffers are back."""
        while not readable(until, 0.0):
            for _ in range(SLOTS // A_STEP):
                self._load.step()
            self._change_sources()
        self._load.drain()
        deadline = time.monotonic() + MAX_WAIT
        while self._device.unreturned and time.monotonic() < deadline:
            self._load.step()

    @property
    def frames(self) -> int:
        return self._device.sent[0]


def main(path: str, ring: str, core: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    sender = Sender(path, ring)
    print(flush=True)
    sender.send(sys.stdin.fileno())
    print(sender.frames, sender.sources)


if __name__ == "__main__":
    main(*sys.argv[1:])
