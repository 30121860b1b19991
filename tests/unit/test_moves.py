"""What a port sends gets another worker while all of them run: nothing is lost, and nothing overtakes."""

from __future__ import annotations

import pytest

from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.dataplane.rewiring import Rewiring
from tests.driver import Piece
from tests.unit.rig import NET_F_MRG_RXBUF
from tests.unit.test_backlog import LONG_MS, know, ring_formats, taken
from tests.unit.test_learn import ethernet, hub, mac
from tests.unit.test_rewiring import awaited, frames, got, runs_and_sticks, send, yard


def test_frames_in_hand_go_on_with_the_worker_that_has_their_wire_now() -> None:
    with yard("abcd", "a:b b:a c:d d:c", workers=2) as y:
        first, second = y.workers
        y.guests["b"].driver.post(3)
        send(y.guests["a"], range(10))
        y.settle()
        assert y.rewiring.move(y.wires["a"], [second])
        y.guests["b"].driver.post(20)
        first.step()
        assert first.waiting == 0
        send(y.guests["a"], range(10, 15))
        second.step()
        y.settle()
        assert got(y.guests["b"]) == frames(range(15))
        assert (first.lanes, second.lanes) == (1, 3)
        assert [wire for wire, _, _ in second.loads] == [y.wires["b"], y.wires["d"], y.wires["a"]]


def test_a_wire_goes_to_and_fro_under_traffic() -> None:
    with yard("abcd", "a:b b:a c:d d:c", workers=2) as y, y.running():
        for guest in y.guests.values():
            guest.driver.post(40)
        for turn in range(100):
            numbers = range(20 * turn, 20 * turn + 20)
            send(y.guests["a"], numbers[:10])
            send(y.guests["c"], numbers[:10])
            assert y.rewiring.move(y.wires["a"], [y.workers[turn % 2 ^ 1]])
            send(y.guests["a"], numbers[10:])
            assert awaited(y.guests["b"], 20) == frames(numbers)
            assert awaited(y.guests["d"], 10) == frames(numbers[:10])


def from_guest(guest: int, to: int, n: int, length: int = 60) -> bytes:
    """The n-th frame from a guest to another one."""
    return ethernet(mac(to), mac(guest), n.to_bytes(4, "big") + bytes([n % 251]) * (length - 18))


def of(guest: int, frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if frame[6:12] == mac(guest)]


@ring_formats
def test_frames_that_wait_in_a_backlog_go_with_their_port_and_those_of_others_stay(ring: int) -> None:
    """Of 60 and of 5000 bytes, which have three blocks each."""
    with hub(3, ring | 1 << 32 | NET_F_MRG_RXBUF, workers=2, posted=0, hold_ms=LONG_MS) as h:
        rewiring = Rewiring(h.door, h.workers)
        know(h, 0, 1, 2)
        first, second = h.workers
        sent = {guest: [from_guest(guest, 1, n, 5000 if n % 3 else 60) for n in range(20)] for guest in (0, 2)}
        for n in range(10):
            for guest in (0, 2):
                h.guests[guest].driver.send(sent[guest][n])
                h.settle()
        assert (first.waiting, second.waiting) == (20, 0)
        assert rewiring.move(h.wires[0], [second])
        assert (first.waiting, second.waiting) == (10, 10)
        for guest in (0, 2):
            h.guests[guest].driver.send_at_once(*sent[guest][10:])
        h.settle()
        assert (first.waiting, second.waiting) == (20, 20)
        h.guests[1].driver.post(200)
        h.settle()
        came = taken(h, 1)
        assert {guest: of(guest, came) for guest in (0, 2)} == sent
        assert (first.waiting, second.waiting) == (0, 0)


def test_a_backlog_from_which_all_frames_go_is_closed_and_its_blocks_are_free_again() -> None:
    with hub(3, 1 << 32, workers=2, posted=0, hold_ms=LONG_MS) as h:
        rewiring = Rewiring(h.door, h.workers)
        know(h, 0, 1)
        buffers = [Piece(h.guests[1].memory.take(128), 128, writable=True) for _ in range(250)]
        for turn in range(80):    # 10,000 blocks of each worker; a pool has 8192
            h.guests[0].driver.send_at_once(*[from_guest(0, 1, n) for n in range(250)])
            h.settle()
            assert h.workers[turn % 2].waiting == 250
            assert rewiring.move(h.wires[0], [h.workers[turn % 2 ^ 1]])
            assert [worker.waiting for worker in h.workers] == [0, 250][:: 1 if turn % 2 == 0 else -1]
            for buffer in buffers:
                h.guests[1].driver.post_chain([buffer])
            h.settle()
            assert taken(h, 1) == [from_guest(0, 1, n) for n in range(250)]


def test_a_port_keeps_its_worker_while_what_waits_has_no_room_in_the_other_one_s_backlog() -> None:
    with hub(4, 1 << 32, workers=2, posted=0, hold_ms=LONG_MS) as h:
        rewiring = Rewiring(h.door, h.workers)
        know(h, 0, 1, 2, 3)
        first, second = h.workers
        h.guests[0].driver.send_at_once(*[from_guest(0, 2, n) for n in range(20)])
        h.guests[1].driver.send_at_once(*[from_guest(1, 2, n) for n in range(240)])
        h.settle()
        assert (first.waiting, second.waiting) == (20, 240)
        assert not rewiring.move(h.wires[0], [second])
        assert (first.waiting, second.waiting) == (20, 240)
        h.guests[2].driver.post(4)
        second.step()
        assert rewiring.move(h.wires[0], [second])
        assert (first.waiting, second.waiting) == (0, 256)
        came = []
        for n in (252, 4):
            h.guests[2].driver.post(n)
            h.settle()
            came += taken(h, 2)
        assert of(0, came) == [from_guest(0, 2, n) for n in range(20)]
        assert of(1, came) == [from_guest(1, 2, n) for n in range(240)]


def test_frames_for_a_queue_that_has_stopped_since_do_not_go_along() -> None:
    with hub(3, 1 << 32, workers=2, posted=0, hold_ms=LONG_MS) as h:
        rewiring = Rewiring(h.door, h.workers)
        know(h, 0, 1)
        h.guests[0].driver.send_at_once(*[from_guest(0, 1, n) for n in range(20)])
        h.settle()
        h.guests[1].port.stop_queue(0)
        assert rewiring.move(h.wires[0], [h.workers[1]])
        assert (h.workers[0].waiting, h.workers[1].waiting) == (20, 0)
        h.settle()
        assert h.guests[1].port.counters().tx_dropped["ring_disabled"] == 20
        assert h.workers[0].waiting == 0


def test_a_worker_s_loads_are_its_visits_that_moved_frames() -> None:
    with yard("ab", "a:b b:a") as y:
        y.settle()
        assert [seconds for _, _, seconds in y.workers[0].loads] == [0, 0]
        y.guests["b"].driver.post(20)
        send(y.guests["a"], range(10))
        y.settle()
        (_, _, of_a), (wire, share, of_b) = y.workers[0].loads
        assert 0 < of_a < 1
        assert (wire, share, of_b) == (y.wires["b"], 0, 0)


def test_while_a_worker_does_not_come_nothing_is_moved() -> None:
    with yard("abcd", "a:b b:a c:d d:c", workers=2) as y, runs_and_sticks(y) as late:
        late.stick()
        with pytest.raises(WorkerStuckError):
            y.rewiring.move(y.wires["a"], [y.workers[1]], wait_ms=50)
        late.let_go()
        assert [wire for wire, _, _ in y.workers[0].loads][:2] == [y.wires["a"], y.wires["c"]]
        assert y.rewiring.move(y.wires["a"], [y.workers[1]])
