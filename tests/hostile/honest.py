"""Two honest guests in a process of their own: numbered, checksummed frames both ways, steadily. Invariants I2 and I8.

`HonestStream` starts the process and reads its board, a shared file of counters. Frames count as offered only while the
process runs, so time without a CPU does not count; frames that find the ring full are offered and not delivered.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.driver import Piece, Region
from tests.frontend import FEATURES, Frontend, Guest
from tests.hostile.forked import Forked
from tests.hostile.rings import EVERY, FORMATS
from tests.hostile.watch import WatchedMemory

SLOTS = struct.Struct("QQQQ")  # offered, delivered, lost, rounds
STOP_AT, PAUSE_AT, FAULT_AT, BOARD_BYTES = 256, 257, 512, 4096

QUEUE_SIZE = 64
SIZES = (60, 1514, 64, 590, 128)
FRAME_HEADER = struct.Struct(">6s6sHBQ")  # addresses, EtherType, direction, number
ADDRESSES = (b"\2\0\0\0\0\1", b"\2\0\0\0\0\2")
"""Those of the attackers' frames, too: at a switch, only its VLAN says whose a frame is."""
ETHERTYPE = 0x88B5  # for local experiments
GUARD = 64
TICK, PAUSED_TICK = 0.001, 0.02
MOST_DUE = 0.005
"""After a pause of this process, frames of this many seconds are sent at once; the others are not offered."""


class Progress(NamedTuple):
    """The board at one moment, or the difference of two."""

    offered: int
    delivered: int
    lost: int
    rounds: int

    def since(self, before: Progress) -> Progress:
        return Progress(*(now - then for now, then in zip(self, before, strict=True)))

    @property
    def share(self) -> float:
        """Delivered of offered."""
        return self.delivered / self.offered if self.offered else 0.0


class HonestStream:
    """The process with the two honest guests, seen from the test."""

    def __init__(self, left: Path, right: Path, directory: Path, pace: int, ring: str) -> None:
        path = directory / "board"
        path.write_bytes(bytes(BOARD_BYTES))
        with path.open("r+b") as file:
            self._board = mmap.mmap(file.fileno(), BOARD_BYTES)
        self._log = directory / "honest.log"
        arguments = [str(left), str(right), "--board", str(path), "--pace", str(pace), "--ring", ring]
        self.process = Forked(main, arguments, self._log)

    def progress(self) -> Progress:
        """Two equal readings, since the board is written at the same time."""
        while (reading := self._board[: SLOTS.size]) != self._board[: SLOTS.size]:
            pass
        return Progress(*SLOTS.unpack(reading))

    def wait_running(self, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while self.progress().delivered < 20:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"the honest stream does not run: {self.fault() or self.progress()}")
            time.sleep(0.01)

    def pause(self, on: bool) -> None:
        """Stop or go on offering. Frames in flight still arrive, and errors are still reported."""
        self._board[PAUSE_AT] = on

    def fault(self) -> str:
        """What went wrong, or empty: a corrupt, duplicated or reordered frame, memory overwritten, a lost link."""
        text = self._board[FAULT_AT:].split(b"\0", 1)[0].decode()
        if not text and self.process.poll() is not None:
            text = f"the honest guests ended: {self._log.read_text()[-1000:]}"
        return text

    def stop(self) -> None:
        self._board[STOP_AT] = 1
        if self.process.wait(2) is None:
            self.process.kill()
            self.process.wait()


class _Side:
    """One honest guest: sends its own numbered frames and checks the other's."""

    def __init__(self, path: str, number: int, ring: str) -> None:
        self.name = "cd"[number]
        self.memory = WatchedMemory([Region(0x10000, 1 << 20, name=f"honest-{self.name}")], self.name)
        own = FORMATS[ring]
        self.rings: list[Any] = [own.queue(self.memory, QUEUE_SIZE) for _ in range(2)]
        frontend = Frontend.connect(path, timeout=60.0)
        self.guest = Guest(frontend, self.memory, *self.rings, features=FEATURES | own.features)
        self.number = number
        self.buffers = [self._guarded() for _ in range(2 * QUEUE_SIZE)]
        for addr in self.buffers[:QUEUE_SIZE]:
            self.guest.net.post_chain([Piece(addr, 1600, writable=True)])
        self.spare = self.buffers[QUEUE_SIZE:]
        self.in_flight: dict[int, int] = {}
        self.sent = self.expected = 0
        self.blob = random.Random(number).randbytes(4096)
        self.guest.kick()

    def _guarded(self) -> int:
        return self.memory.take(1600 + GUARD, align=64)

    def send(self, n: int) -> int:
        """Send up to n frames; how many found a place."""
        queue = self.guest.transmitq
        for used in queue.take_used():
            self.spare.append(self.in_flight.pop(used.head))
        heads = []
        for _ in range(min(n, len(self.spare))):
            size = SIZES[self.sent % len(SIZES)]
            start = self.sent % 2048
            addresses = ADDRESSES[1 - self.number], ADDRESSES[self.number]
            number = FRAME_HEADER.pack(*addresses, ETHERTYPE, self.number, self.sent)
            body = number + self.blob[start : start + size - len(number) - 4]
            frame = body + zlib.crc32(body).to_bytes(4, "little")
            addr = self.spare.pop()
            self.memory.write(addr, bytes(12) + frame)
            heads.append(queue.chain([Piece(addr, 12 + len(frame))]))
            self.in_flight[heads[-1]] = addr
            self.sent += 1
        queue.make_available(*heads)
        return len(heads)

    def check(self) -> tuple[int, int, str]:
        """Receive. Returns frames received, frames missing before them, and what is wrong with them."""
        received = lost = 0
        for frame in self.guest.net.receive_all():
            body, crc = frame[:-4], frame[-4:]
            if zlib.crc32(body).to_bytes(4, "little") != crc:
                return received, lost, f"a frame of {len(frame)} bytes to {self.name} is corrupt: {frame[:40].hex()}"
            *_, direction, number = FRAME_HEADER.unpack_from(body)
            if direction != 1 - self.number:
                return received, lost, f"a frame to {self.name} is its own"
            if number < self.expected:
                return received, lost, f"frame {number} to {self.name} after {self.expected - 1}: repeated or reordered"
            lost += number - self.expected
            received += 1
            self.expected = number + 1
        return received, lost, ""

    def memory_fault(self) -> str:
        """I8: only used rings and receive buffers were written."""
        buffers = [(piece.addr, piece.bytes) for chain in self.guest.net.receive_buffers.values() for piece in chain]
        changed = self.memory.changed([*(place for ring in self.rings for place in ring.writable()), *buffers])
        return f"{self.name}: {'; '.join(changed)}" if changed else ""


def _due(pace: int) -> Iterator[int]:
    """Yields how many frames are due now."""
    last, owed = time.monotonic(), 0.0
    while True:
        now = time.monotonic()
        owed += min(now - last, MOST_DUE) * pace
        last = now
        yield int(owed)
        owed -= int(owed)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs=2)
    parser.add_argument("--board", required=True)
    parser.add_argument("--pace", type=int, required=True)
    parser.add_argument("--ring", choices=EVERY, required=True)
    args = parser.parse_args(arguments)
    with open(args.board, "r+b") as file:  # noqa: PTH123
        board = mmap.mmap(file.fileno(), BOARD_BYTES)
    sides = [_Side(path, number, args.ring) for number, path in enumerate(args.paths)]
    offered = delivered = lost = 0
    parent, fault = os.getppid(), ""
    for rounds, due in enumerate(_due(args.pace // 2), 1):
        for side in sides:
            due = 0 if board[PAUSE_AT] else due
            offered += due
            side.send(due)
            received, missing, wrong = side.check()
            delivered, lost, fault = delivered + received, lost + missing, fault or wrong
        if rounds % 64 == 0:
            fault = fault or sides[0].memory_fault() or sides[1].memory_fault()
            if any(side.guest.frontend.wait_closed(0.0) for side in sides):
                fault = fault or "the connection of an honest guest was closed"
        board[: SLOTS.size] = SLOTS.pack(offered, delivered, lost, rounds)
        if fault:
            board[FAULT_AT : FAULT_AT + len(fault.encode())] = fault.encode()
        if board[STOP_AT] or os.getppid() != parent:
            return
        time.sleep(PAUSED_TICK if board[PAUSE_AT] else TICK)
