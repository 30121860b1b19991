"""A guest wired to a port of another kind, a worker that is stepped by hand, and frames in any number of pieces."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

from bench import conservation
from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import Port
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, Piece
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, NET_F_MRG_RXBUF, GuestPort

AnyPort = TypeVar("AnyPort", bound=Port)
RINGS = {"split": F_VERSION_1, "packed": F_VERSION_1 | F_RING_PACKED}
HEADER_BYTES = 12

# Where header and frame are cut: lengths of all pieces but the last.
SENT_CUTS: tuple[tuple[int, ...], ...] = (
    (),                              # header and frame in one
    (12,),                           # the header apart, as Linux sends what has been paged
    (12, 20),                        # and the frame in two
    (12, 20, 33),                    # in three
    (),                              # one that has no pieces, behind others that have
    (12 + 14,),                      # header and Ethernet header together
    (12 + 14, 21),
    (5, 7, 30),                      # the header itself in pieces
    (5, 20, 22),
    (12, 0, 17, 0, 18),              # and nothing between them
    (12, 11, 9, 7, 5, 3),            # more than a packet port names to the kernel
)


class Buffers(NamedTuple):
    """How a guest receives: what it negotiates, how long its buffers are, and where each is cut."""

    features: int
    bytes: int
    cuts: tuple[tuple[int, ...], ...]


BUFFERS = {
    "whole": Buffers(0, 2048, ((),)),
    "in pieces": Buffers(0, 2048, ((), (12,), (12, 20), (12, 20, 33), (5, 20), (40, 0, 3))),
    "merged": Buffers(NET_F_MRG_RXBUF, 100, ((), (12,), (12, 20), (50,), (12, 1, 30))),
}
MOST = 44
"""As many frames as fit into one burst and a ring of 256, so that each cut is used several times."""
SIZES = (60, 200, 151, 590, 61, 1514, 128, 77)


def frame(number: int, size: int) -> bytes:
    """A frame of which no two pieces are alike, wherever it is cut."""
    return b"\x52\x54\0\0\0\x0b\x52\x54\0\0\0\x0a\x88\xb5" + random.Random(number).randbytes(size - 14)


def frames(n: int = MOST) -> list[bytes]:
    """Of all sizes, long and short ones in turn."""
    return [frame(number, SIZES[number % len(SIZES)]) for number in range(n)]


def pieces(memory: Memory, size: int, cut: tuple[int, ...], *, writable: bool = False) -> list[Piece]:
    """New memory for a chain, with space between the pieces, so that an overrun does not hit the next one."""
    lengths = (*cut, size - sum(cut))
    return [Piece(memory.take(max(length, 1), align=256), length, writable=writable) for length in lengths]


def send(side: GuestPort, sent: list[bytes], cuts: tuple[tuple[int, ...], ...] = SENT_CUTS) -> None:
    """Frames that become visible together, each in pieces as the next cut says."""
    heads = []
    for number, one in enumerate(sent):
        data = bytes(HEADER_BYTES) + one
        chain = pieces(side.memory, len(data), cuts[number % len(cuts)])
        heads.append(side.queues[1].chain(chain))
        for piece in chain:
            side.memory.write(piece.addr, data[: piece.bytes])
            data = data[piece.bytes :]
    side.queues[1].make_available(*heads)


def post(side: GuestPort, buffers: Buffers) -> None:
    """Receive buffers, more than half a ring full; the driver posts each again when it has read it."""
    for number in range(64):
        cut = buffers.cuts[number % len(buffers.cuts)]
        side.driver.post_chain(pieces(side.memory, buffers.bytes, cut, writable=True))


class GuestAndPort(Generic[AnyPort]):
    """The port is made with the door that it shares with the guest's."""

    def __init__(self, make: Callable[[Door], AnyPort], features: int, ring_size: int) -> None:
        door = Door()
        self.port = make(door)
        self.guest = GuestPort(door, "guest", Memory.of(16 * MIB), ring_size, features)
        self.guest.connect()
        self.worker = Worker(door)
        self.worker.add_wire(self.guest.port, self.port, hold=True, hold_timeout_ms=60_000)
        self.worker.add_wire(self.port, self.guest.port, hold=True, hold_timeout_ms=60_000)

    def until(self, what: str, done: Callable[[], object], seconds: float = MAX_WAIT) -> None:
        """Step until it is so."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; {self.dropped()}"
            self.worker.step()

    def wait_sent(self, n: int) -> None:
        """Wait until n chains came back, with nothing written to them."""
        back: list[int] = []

        def all_back() -> bool:
            back.extend(used.bytes for used in self.guest.queues[1].take_used())
            return len(back) >= n

        self.until(f"{n} chains are back", all_back)
        assert back == [0] * n

    def received(self, n: int) -> list[bytes]:
        """The frames that arrive at the guest: `n` of them, and any others."""
        found: list[bytes] = []

        def all_there() -> bool:
            found.extend(self.guest.driver.receive_all())
            return len(found) >= n

        self.until(f"{n} frames at the guest", all_there)
        return found

    def dropped(self) -> dict[str, int]:
        """What either port dropped, by reason."""
        counted = (self.guest.port.counters(), self.port.counters())
        tallies = [tally for counters in counted for tally in (counters.rx_dropped, counters.tx_dropped)]
        return {reason: n for tally in tallies for reason, n in tally.items() if n}

    def close(self) -> None:
        self.worker.close()
        self.guest.close()
        self.port.close()


@contextmanager
def guest_and_port(
    make: Callable[[Door], AnyPort], features: int, ring_size: int = 256
) -> Iterator[GuestAndPort[AnyPort]]:
    """Closed at the end; by then nothing has been dropped."""
    made = GuestAndPort(make, features, ring_size)
    try:
        yield made
        assert made.dropped() == {}
        conservation.check(made.worker, made.guest.port, made.port)
    finally:
        made.close()
