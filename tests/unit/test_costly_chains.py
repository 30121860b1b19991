"""Empty descriptors cost their driver nothing: the number that one round reads is bounded, too."""

from __future__ import annotations

import time

from fastvhost.dataplane.worker import Worker
from tests.driver import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR, Memory, Piece
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, GuestPort, frame, rig

SIZE = 32768
LONGEST_ROUND = 0.004
"""Seconds of CPU time. A round that follows every descriptor to its end takes five to a hundred times as long."""
FEATURES = F_VERSION_1 | RING_F_INDIRECT_DESC


def fill(side: GuestPort, index: int, first_bytes: int = 0) -> None:
    """Every entry names a chain of as many empty descriptors as the queue has, then a table of as many.

    With first_bytes, the first entry's chain starts with a descriptor of so many bytes, which the others leave out.
    """
    queue, addr = side.queues[index], side.memory.take(64)
    flags = 0 if index else DESC_F_WRITE
    rows = [DESCRIPTOR.pack(addr, 0, flags | DESC_F_NEXT, i + 1) for i in range(SIZE - 1)]
    rows[0] = DESCRIPTOR.pack(addr, first_bytes, flags | DESC_F_NEXT, 1)
    table = side.memory.take(16 * SIZE)
    side.memory.write(table, b"".join([*rows[1:], rows[1], DESCRIPTOR.pack(addr, 0, flags, 0)]))
    side.memory.write(queue.descriptor_area, b"".join(rows) + DESCRIPTOR.pack(table, 16 * SIZE, DESC_F_INDIRECT, 0))
    queue.place(*([0] + [1] * (SIZE - 1) if first_bytes else [0] * SIZE))
    queue.set_avail_index(queue.avail_index + SIZE)


def longest_round(worker: Worker) -> float:
    """Seconds of CPU time, the shortest of three tries of the longest of three rounds."""
    spent = []
    for _ in range(9):
        before = time.thread_time()
        worker.step()
        spent.append(time.thread_time() - before)
    return min(max(spent[i::3]) for i in range(3))


def test_a_full_transmitq_of_empty_descriptors_keeps_a_round_short() -> None:
    with rig(size=SIZE, features=FEATURES, memory=Memory.of(16 * MIB), b_memory=Memory.of(16 * MIB)) as r:
        fill(r.a, 1)
        assert longest_round(r.worker) < LONGEST_ROUND


def test_a_full_mergeable_receiveq_of_empty_descriptors_keeps_a_round_short() -> None:
    receiver = FEATURES | NET_F_MRG_RXBUF
    memory = Memory.of(16 * MIB), Memory.of(16 * MIB)
    with rig(size=SIZE, features=FEATURES, b_features=receiver, memory=memory[0], b_memory=memory[1]) as r:
        fill(r.b, 0, first_bytes=12)
        r.a.driver.send(frame(1))
        assert longest_round(r.worker) < LONGEST_ROUND


def test_a_packed_transmitq_of_tables_of_empty_descriptors_keeps_a_round_short() -> None:
    memory = Memory.of(16 * MIB), Memory.of(16 * MIB)
    with rig(size=256, features=FEATURES | F_RING_PACKED, memory=memory[0], b_memory=memory[1]) as r:
        queue, addr, table = r.a.queues[1], r.a.memory.take(64), r.a.memory.take(16 * SIZE)
        r.a.memory.write(table, DESCRIPTOR.pack(addr, 0, 0, 0) * SIZE)
        queue.make_available(*[queue.chain([Piece(table, 16 * SIZE, indirect=True)]) for _ in range(queue.size)])
        assert longest_round(r.worker) < LONGEST_ROUND
