"""A packed ring goes on where another process left it, whichever store was that one's last. Virtio 1.2, section 2.8."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pytest

from fastvhost.dataplane.packed_journal import JOURNAL_BYTES
from tests.driver import Memory
from tests.unit.rig import (
    F_RING_PACKED,
    F_VERSION_1,
    MIB,
    NET_F_MRG_RXBUF,
    RING_F_INDIRECT_DESC,
    Rig,
    frame,
    mapped,
    setup_of,
)

PLAIN = F_VERSION_1 | F_RING_PACKED
MERGEABLE = PLAIN | NET_F_MRG_RXBUF | RING_F_INDIRECT_DESC
FRESH = 0x8000_8000
RECEIVEQ, TRANSMITQ = 0, 1
A_TRANSMITQ, B_RECEIVEQ, A_JOURNAL, B_JOURNAL = 1, 2, 4, 5
"""Offsets in the bytes of Served.image()."""
LENGTH = 160
"""Bytes of each frame: with its header, three buffers of 64 bytes hold it."""


class Served:
    """Two guests, and one serving process after another, each with ports and a worker of its own."""

    def __init__(self, features: int, size: int) -> None:
        self.features, self.size = features, size
        self.memories = [Memory.of(8 * MIB), Memory.of(8 * MIB)]
        self.journals = [bytearray(2 * JOURNAL_BYTES) for _ in "ab"]
        self.r = Rig(features=features, size=size, memory=self.memories[0], b_memory=self.memories[1])
        self.started = [self._connect(self.r, n) for n in range(2)]
        self.gone: list[Rig] = []

    def _connect(self, r: Rig, n: int) -> list[str]:
        side = (r.a, r.b)[n]
        side.port.keep_journals(self.journals[n])
        side.port.set_link(True)
        side.port.set_features(self.features)
        side.port.set_memory(mapped(self.memories[n]))
        return [
            side.port.start_queue(index, setup_of(side.memory, queue, base=FRESH, call_fd=side.call[index]))
            for index, queue in enumerate(side.queues)
        ]

    def image(self) -> list[bytes]:
        """Everything that outlives a process: rings and journals."""
        rings = [(m, q) for m, side in zip(self.memories, (self.r.a, self.r.b), strict=True) for q in side.queues]
        return [m.read(q.descriptor_area, 16 * q.size) for m, q in rings] + [bytes(j) for j in self.journals]

    def put_back(self, image: Sequence[bytes]) -> None:
        rings = [(m, q) for m, side in zip(self.memories, (self.r.a, self.r.b), strict=True) for q in side.queues]
        for (memory, queue), data in zip(rings, image, strict=False):
            memory.write(queue.descriptor_area, data)
        for journal, data in zip(self.journals, image[4:], strict=True):
            journal[:] = data

    def another_process(self) -> None:
        """The serving process is killed: it publishes nothing more, and only its drivers' state stays."""
        old, self.journals = self.r, [bytearray(journal) for journal in self.journals]
        self.r = Rig(features=self.features, size=self.size, memory=self.memories[0], b_memory=self.memories[1])
        for new, before in ((self.r.a, old.a), (self.r.b, old.b)):
            new.queues, new.driver = before.queues, before.driver
        self.gone.append(old)
        self.started = [self._connect(self.r, n) for n in range(2)]

    def close(self) -> None:
        for r in [*self.gone, self.r]:
            r.worker.close()
            for side in (r.a, r.b):
                with contextlib.suppress(OSError):
                    side.close()


@contextlib.contextmanager
def served(features: int = MERGEABLE, size: int = 16) -> Iterator[Served]:
    made = Served(features, size)
    try:
        yield made
    finally:
        made.close()


def stores(before: bytes, after: bytes) -> list[tuple[int, bytes]]:
    """The descriptors that a batch changed, in the order of their stores: the first one's flags are last."""
    changed = [at for at in range(0, len(before), 16) if before[at : at + 16] != after[at : at + 16]]
    if not changed:
        return []
    # The batch may cross the end of the ring: it begins after the largest gap.
    begin = max(range(len(changed)), key=lambda n: (changed[n] - changed[n - 1]) % len(before) or len(before))
    order = changed[begin:] + changed[:begin]
    first = order[0]
    begun = after[first : first + 14] + before[first + 14 : first + 16]
    return [(first, begun)] + [(at, after[at : at + 16]) for at in order[1:]] + [(first, after[first : first + 16])]


def send(s: Served, numbers: Sequence[int]) -> None:
    s.r.a.driver.send_at_once(*(frame(n, LENGTH) for n in numbers))


def boot(s: Served, buffer_bytes: int, warm_up: int) -> list[int]:
    """Both guests post buffers and frames pass, so that the rings are not at 0. Returns the frames' numbers."""
    s.r.b.driver.post(s.size, bytes=buffer_bytes)
    for n in range(warm_up):
        send(s, [n])
        s.r.settle()
        assert s.r.b.driver.receive(0) == frame(n, LENGTH)
    return list(range(warm_up))


def cut_short(before: list[bytes], after: list[bytes], n: int) -> list[bytes] | None:
    """The bytes after the first n stores of a burst; None where there are fewer."""
    image = list(before)
    for ring, journal in ((B_RECEIVEQ, B_JOURNAL), (A_TRANSMITQ, A_JOURNAL)):
        if n == 0:
            return image
        image[journal] = after[journal]
        n -= 1
        for at, descriptor in stores(before[ring], after[ring]):
            if n == 0:
                return image
            image[ring] = image[ring][:at] + descriptor + image[ring][at + 16 :]
            n -= 1
    return image if n == 0 else None


@pytest.mark.parametrize("warm_up", [1, 5, 9, 15, 16, 17, 21, 31, 32, 40])
@pytest.mark.parametrize("buffer_bytes", [2048, 64], ids=["one buffer a frame", "three buffers a frame"])
def test_killed_at_any_store_of_a_burst_the_next_process_goes_on(warm_up: int, buffer_bytes: int) -> None:
    """Every frame arrives, in order; only those of that burst may arrive twice."""
    for n in range(30):
        with served() as s:
            sent = boot(s, buffer_bytes, warm_up)
            burst = [1000, 1001, 1002]
            send(s, burst)
            before = s.image()
            s.r.worker.step()
            ended = cut_short(before, s.image(), n)
            if ended is None:
                break
            s.put_back(ended)
            s.another_process()
            assert s.started[0][RECEIVEQ] != "left standing"
            assert s.started[0][TRANSMITQ] == s.started[1][RECEIVEQ] == "went on"
            s.r.settle()
            arrived = s.r.b.driver.receive_all()
            for number in range(2000, 2040):
                send(s, [number])
                s.r.settle()
                arrived += s.r.b.driver.receive_all()
            later = [frame(number, LENGTH) for number in range(2000, 2040)]
            once = [frame(number, LENGTH) for number in burst]
            assert arrived in (once + later, once + once + later), f"{n} stores, after {len(sent)} frames"
    assert n > 8


def test_a_ring_that_was_never_used_starts_as_told() -> None:
    with served() as s:
        assert s.started == [["as told"] * 2] * 2


def test_a_packed_ring_goes_on_when_nothing_moved_between_two_restarts() -> None:
    with served() as s:
        boot(s, 2048, 5)
        for _ in range(3):
            s.another_process()
            assert s.started[1][RECEIVEQ] == "went on"
        send(s, [9])
        s.r.settle()
        assert s.r.b.driver.receive(0) == frame(9, LENGTH)


@pytest.mark.parametrize("warm_up", [5, 16, 20, 32, 37])
@pytest.mark.parametrize("posted", [0, 3, 16])
def test_a_guest_that_booted_anew_meanwhile_starts_afresh(warm_up: int, posted: int) -> None:
    """Its rings lie in the place of the old ones, with zeros, or with buffers that its driver has posted."""
    with served() as s:
        boot(s, 2048, warm_up)
        for side in (s.r.a, s.r.b):
            for queue in side.queues:
                queue.reset()
            side.driver.receive_buffers.clear()
            side.driver._transmit_buffers.clear()
        s.r.b.driver.post(posted)
        for n in range(posted):
            send(s, [n])
        s.another_process()
        s.r.b.driver.post(16 - posted)
        s.r.settle()
        assert s.r.b.driver.receive_all() == [frame(n, LENGTH) for n in range(posted)]


@pytest.mark.parametrize("posted", [3, 16])
def test_a_packed_ring_goes_on_where_the_last_burst_of_before_went_over_its_end(posted: int) -> None:
    with served() as s:
        boot(s, 64, 10)  # three buffers a frame: the next ones stand at places 14, 15 and, a lap later, 0
        send(s, [9])
        s.r.settle()
        for side in (s.r.a, s.r.b):
            for queue in side.queues:
                queue.reset()
            side.driver.receive_buffers.clear()
        s.r.b.driver.post(posted)
        s.another_process()
        assert s.started[1][RECEIVEQ] == "as told"


def test_a_ring_in_use_of_which_nothing_was_noted_is_left_standing_and_that_is_said() -> None:
    with served() as s:
        boot(s, 2048, 5)
        s.journals = [bytearray(len(journal)) for journal in s.journals]
        s.another_process()
        assert s.started[1][RECEIVEQ] == "left standing"


def test_what_the_front_end_stopped_is_forgotten() -> None:
    """It knows the ring's position and sends it if the ring goes on; so a base of 0 means a new ring."""
    with served() as s:
        boot(s, 2048, 5)
        s.r.b.port.stop_queue(RECEIVEQ)
        s.r.b.port.forget_queue(RECEIVEQ)
        s.another_process()
        assert s.started[1][RECEIVEQ] == "left standing"


@pytest.mark.parametrize("damage", [b"\xff", b"\0", b"\x80", b"\x7f"])
def test_no_journal_however_damaged_breaks_more_than_its_ring(damage: bytes) -> None:
    for at in range(24, 80):
        with served() as s:
            boot(s, 2048, 20)
            s.journals[1][at] = damage[0]
            s.another_process()
            send(s, [1])
            s.r.settle()


def test_a_port_refuses_journals_that_are_too_small_and_while_a_ring_is_live() -> None:
    with served() as s:
        with pytest.raises(ValueError, match="is live"):
            s.r.a.port.keep_journals(bytearray(2 * JOURNAL_BYTES))
        with pytest.raises(ValueError, match="for each"):
            s.r.a.port.keep_journals(bytearray(2 * JOURNAL_BYTES - 1))
