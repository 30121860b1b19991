"""An attacker at both ends of a wire, ports i and j: legal frames that cost it two indices, and the worker much time.

Every entry of each ring of i names the same chain, every entry of each ring of j the same buffer. So its own CPU time
is that of moving the available indices, however long the frames are, and is the same in quiet turns.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from tests.driver import DESC_F_INDIRECT, DESC_F_WRITE, Memory, Piece
from tests.frontend import F_PROTOCOL_FEATURES, F_VERSION_1, FEATURES, Frontend
from tests.hostile.scene import Scene, region

SIZE = 256
PAUSE = 0.001
"""Seconds between two turns; its rings hold more than the worker does in that time."""
NET_F_MQ = 1 << 22
BUFFER_BYTES = 66000
Fill = Callable[[Memory, Any], None]
"""Writes the chain that all entries of this ring name, as descriptor 0."""


class Mill:
    """Rings of one kind on both ports, kept full by `turn`."""

    def __init__(self, scene: Scene, fill: Fill, pairs: int = 1, size: int = SIZE) -> None:
        self._scene = scene
        self._memory = Memory([region(32 << 20)])
        self._size = size
        self._sending = [self._ring() for _ in range(pairs)]
        self._receiving = [self._ring() for _ in range(pairs)]
        fill(self._memory, self._sending)
        buffer = self._memory.take(BUFFER_BYTES)
        for ring in self._receiving:
            ring.write_descriptor(0, buffer, BUFFER_BYTES, DESC_F_WRITE)
        self._frontends = [
            self._connect("j", dict(zip(range(0, 2 * pairs, 2), self._receiving, strict=True))),
            self._connect("i", dict(zip(range(1, 2 * pairs, 2), self._sending, strict=True))),
        ]
        for ring in (*self._sending, *self._receiving):
            ring.place(*[0] * size)

    def _ring(self) -> Any:
        return self._scene.format.queue(self._memory, self._size)

    def _connect(self, port: str, rings: dict[int, Any]) -> Frontend:
        frontend = self._scene.connect(port)
        frontend.negotiate(FEATURES | F_VERSION_1 | F_PROTOCOL_FEATURES | NET_F_MQ)
        frontend.set_mem_table(self._memory.regions)
        for index, ring in rings.items():
            frontend.set_up_queue(index, ring)
        return frontend

    def turn(self, *, on: bool = True) -> None:
        """Fill every ring, or look at every one and fill none."""
        for ring in (*self._receiving, *self._sending):
            full = ring.used_index + self._size
            ring.set_avail_index(full if on else ring.avail_index)
        self._scene.pause(PAUSE)

    def frames(self) -> int:
        """Sent so far, as fwd counts them."""
        return int(self._scene.arena.backend.statistics(self._scene.max_wait)["ports"]["i"]["rx_frames"])

    def close(self) -> None:
        for frontend in self._frontends:
            frontend.close()
        self._memory.close()


def in_pieces(pieces: int, bytes_each: int) -> Fill:
    """A frame in `pieces` pieces in an indirect table, which all entries of all rings use."""

    def fill(memory: Memory, rings: Sequence[Any]) -> None:
        data = memory.take(pieces * bytes_each + 16)
        memory.write(data, bytes(12) + b"\2\0\0\0\0\1\2\0\0\0\0\2\x88\xb5")
        table = rings[0].table([Piece(data + i * bytes_each, bytes_each) for i in range(pieces)])
        at = memory.take(len(table))
        memory.write(at, table)
        for ring in rings:
            ring.write_descriptor(0, at, len(table), DESC_F_INDIRECT)

    return fill


def in_one(bytes: int) -> Fill:
    """A frame in one buffer."""

    def fill(memory: Memory, rings: Sequence[Any]) -> None:
        data = memory.take(12 + bytes)
        memory.write(data, struct.pack("12x6s6sH", b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", 0xB588))
        for ring in rings:
            ring.write_descriptor(0, data, 12 + bytes)

    return fill
