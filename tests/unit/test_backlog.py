"""A switch and a guest that has no room: frames for it wait in memory of fwd, and nobody waits with them."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from bench.guests.waits import wait_until
from fastvhost.backend.features import OFFLOADS
from tests.driver import NET_HEADER, Memory, Timeout
from tests.probes import delivery_locks
from tests.segmenter import ACK, CWR, FIN, PSH, SuperFrame
from tests.standstill import settle
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, NET_F_MRG_RXBUF, mapped
from tests.unit.test_learn import EVERYBODY, Hub, ethernet, hub, mac
from tests.unit.test_switch_members import members
from tests.unit.vlan_hub import access, tag, trunk, vlan_hub
from tests.unit.vlan_hub import ethernet as tagged

LONG_MS = 60_000
SHORT_MS = 20
BACKLOG_FRAMES = 256
BLOCK_BYTES = 2048
POOL_BYTES = 16 * MIB
ring_formats = pytest.mark.parametrize("ring", [0, F_RING_PACKED], ids=["split", "packed"])


def numbered(to: int, n: int, length: int = 60) -> bytes:
    """The n-th frame from guest 0 to a guest."""
    return ethernet(mac(to), mac(0), n.to_bytes(4, "big") + bytes([n % 251]) * (length - 18))


def know(h: Hub, *guests: int) -> None:
    """The switch learns where they are, and none of them gets anything."""
    for guest in guests:
        h.guests[guest].driver.send(ethernet(mac(guest), mac(guest)))
    h.settle()


def send(h: Hub, *frames: bytes, header: bytes | None = None) -> None:
    """From guest 0. All of its chains come back."""
    for frame in frames:
        h.guests[0].driver.send(frame, header)
        h.settle()
    h.guests[0].driver.wait_sent()


def taken(h: Hub, guest: int) -> list[bytes]:
    """What a guest has got. It gives its buffers to nobody."""
    frames = []
    with contextlib.suppress(Timeout):
        while True:
            frames.append(h.guests[guest].driver.receive(0, repost=False))
    return frames


def no_room(h: Hub, guest: int) -> int:
    dropped = h.guests[guest].port.counters().tx_dropped
    assert sum(dropped.values()) == dropped["no_receive_buffers"]
    return dropped["no_receive_buffers"]


# Waiting


@ring_formats
def test_frames_for_a_guest_without_buffers_wait_and_those_for_others_arrive(ring: int) -> None:
    with hub(3, F_VERSION_1 | ring, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1, 2)
        h.guests[2].driver.post(64)
        slow, fast = ([numbered(to, n) for n in range(20)] for to in (1, 2))
        h.guests[0].driver.send_at_once(*[frame for pair in zip(slow, fast, strict=True) for frame in pair])
        h.settle()
        assert taken(h, 2) == fast
        assert h.guests[0].driver.reclaim() == 40
        assert h.workers[0].waiting == 20
        h.guests[1].driver.post(64)
        h.settle()
        assert taken(h, 1) == slow
        assert (h.workers[0].waiting, no_room(h, 1)) == (0, 0)


@ring_formats
def test_later_frames_go_behind_those_that_wait(ring: int) -> None:
    with hub(3, F_VERSION_1 | ring, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        frames, got = [numbered(1, n) for n in range(90)], []
        for begin in range(0, 90, 10):
            h.guests[1].driver.post(7)
            h.guests[0].driver.send_at_once(*frames[begin : begin + 10])
            h.settle()
            got += taken(h, 1)
        h.guests[1].driver.post(64)
        h.settle()
        assert got + taken(h, 1) == frames
        assert no_room(h, 1) == 0


@ring_formats
def test_a_guest_that_has_room_again_gets_frames_straight_from_their_sender(ring: int) -> None:
    with hub(3, F_VERSION_1 | ring, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        send(h, numbered(1, 0))
        h.guests[1].driver.post(3)
        h.guests[0].driver.send_at_once(numbered(1, 1), numbered(1, 2))
        h.workers[0].step()
        assert h.workers[0].waiting == 0
        assert taken(h, 1) == [numbered(1, n) for n in range(3)]


@ring_formats
def test_frames_wait_as_they_were_when_it_was_decided_where_they_go(ring: int) -> None:
    """Their sender has its buffers back, and may write there, or take its memory away."""
    with hub(3, F_VERSION_1 | ring, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        sender, blank = h.guests[0], Memory.of(MIB)
        pieces = [sender.driver.offer(numbered(1, n, 5000)) for n in range(5)]
        sender.queues[1].make_available(*[sender.queues[1].chain(piece) for piece in pieces])
        h.settle()
        assert sender.driver.reclaim() == 5
        for (piece,) in pieces:
            sender.memory.write(piece.addr, b"\xff" * 5000)
        try:
            sender.port.set_memory(mapped(blank))
            h.guests[1].driver.post(5, bytes=8192)
            h.settle()
            assert taken(h, 1) == [numbered(1, n, 5000) for n in range(5)]
        finally:
            blank.close()


def test_frames_that_wait_are_counted_once_at_each_end() -> None:
    with hub(3, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        before = h.guests[0].port.counters()
        send(h, *[numbered(1, n, 100) for n in range(9)])
        counted = h.guests[0].port.counters()
        assert (counted.rx_frames - before.rx_frames, counted.rx_bytes - before.rx_bytes) == (9, 900)
        assert h.guests[1].port.counters().tx_frames == 0
        h.guests[1].driver.post(9)
        h.settle()
        assert (h.guests[1].port.counters().tx_frames, h.guests[1].port.counters().tx_bytes) == (9, 900)
        assert h.guests[0].port.counters().rx_frames == counted.rx_frames


def test_a_worker_that_may_sleep_delivers_what_waits_although_nobody_kicks() -> None:
    with hub(3, posted=0, hold_ms=LONG_MS, idle="interrupt") as h:
        know(h, 1)
        send(h, numbered(1, 1))
        thread = threading.Thread(target=h.workers[0].run)
        thread.start()
        try:
            time.sleep(0.01)
            h.guests[1].driver.post(1)
            assert h.guests[1].driver.receive() == numbered(1, 1)
        finally:
            h.workers[0].stop()
            thread.join()


def test_frames_wait_where_another_worker_has_the_queue_for_too_long() -> None:
    with hub(workers=2, hold_ms=LONG_MS) as h:
        know(h, 1, 3)
        assert delivery_locks.hold(h.guests[1].port, 0)
        for n in range(3):
            h.guests[0].driver.send(numbered(1, n))
            h.guests[0].driver.send(numbered(3, n))
        h.settle()
        assert (taken(h, 1), taken(h, 3)) == ([], [numbered(3, n) for n in range(3)])
        assert sum(worker.waiting for worker in h.workers) == 3
        delivery_locks.let_go(h.guests[1].port, 0)
        h.settle()
        assert taken(h, 1) == [numbered(1, n) for n in range(3)]
        assert no_room(h, 1) == 0


# Floods


@ring_formats
def test_a_flooded_frame_neither_waits_nor_overtakes_one_that_does(ring: int) -> None:
    with hub(3, F_VERSION_1 | ring, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        send(h, ethernet(EVERYBODY, mac(0)))
        assert (h.workers[0].waiting, no_room(h, 1)) == (0, 1)
        send(h, numbered(1, 0), numbered(1, 1))
        h.guests[1].driver.post(1)
        h.guests[0].driver.send_at_once(ethernet(EVERYBODY, mac(0)))
        h.settle()
        assert taken(h, 1) == [numbered(1, 0)]
        assert (h.workers[0].waiting, no_room(h, 1)) == (1, 2)
        h.guests[1].driver.post(2)
        h.guests[0].driver.send_at_once(ethernet(EVERYBODY, mac(0)))
        h.settle()
        assert taken(h, 1) == [numbered(1, 1), ethernet(EVERYBODY, mac(0))]


# Bounds


@ring_formats
def test_256_frames_wait_for_a_queue_and_the_next_is_dropped(ring: int) -> None:
    with hub(3, F_VERSION_1 | ring, posted=0, size=512, hold_ms=LONG_MS) as h:
        know(h, 1)
        h.guests[0].driver.send_at_once(*[numbered(1, n) for n in range(300)])
        h.settle()
        assert (h.workers[0].waiting, no_room(h, 1)) == (BACKLOG_FRAMES, 44)
        h.guests[1].driver.post(100)
        h.settle()
        send(h, *[numbered(1, n) for n in range(300, 340)])
        h.guests[1].driver.post(300)
        h.settle()
        assert taken(h, 1) == [numbered(1, n) for n in (*range(256), *range(300, 340))]


def test_512_kib_wait_for_a_queue_counted_in_blocks_of_2_kib() -> None:
    with hub(3, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        frames = [numbered(1, n, 9000) for n in range(60)]
        send(h, *frames)
        assert h.workers[0].waiting == 512 * 1024 // (5 * BLOCK_BYTES) == 51
        assert no_room(h, 1) == 9
        h.guests[1].driver.post(60, bytes=16384)
        h.settle()
        assert taken(h, 1) == frames[:51]


def test_a_worker_has_16_mib_for_all_queues_and_gets_them_back() -> None:
    """Of frames in thirty blocks each."""
    n_guests, length, most = 37, 30 * BLOCK_BYTES, POOL_BYTES // (30 * BLOCK_BYTES)
    with hub(n_guests, posted=0, hold_ms=LONG_MS) as h:
        know(h, *range(1, n_guests))
        for _ in range(2):
            before = [no_room(h, to) for to in range(n_guests)]
            for to in range(1, n_guests):
                send(h, *[numbered(to, n, length) for n in range(8)])
            assert h.workers[0].waiting == most
            for to in range(1, n_guests):
                kept = 8 - (no_room(h, to) - before[to])
                h.guests[to].driver.post(kept, bytes=length + 12)
                settle(*h.workers)  # a round looks at some of the backlogs
                assert taken(h, to) == [numbered(to, n, length) for n in range(kept)]
            assert h.workers[0].waiting == 0


@ring_formats
def test_what_waits_in_front_of_a_frame_is_delivered_before_it_although_it_is_not_its_turn(ring: int) -> None:
    """A round looks at eight backlogs. Here are more."""
    n_guests = 41
    with hub(n_guests, F_VERSION_1 | ring, posted=0, hold_ms=LONG_MS, size=64) as h:
        know(h, *range(1, n_guests))
        h.guests[0].driver.send_at_once(*[numbered(to, 0) for to in range(1, n_guests)])
        h.settle()
        assert h.workers[0].waiting == n_guests - 1
        for guest in h.guests[1:]:
            guest.driver.post(2)
        h.guests[0].driver.send_at_once(*[numbered(to, 1) for to in range(1, n_guests)])
        h.workers[0].step()
        assert h.workers[0].waiting == 0
        assert all(taken(h, to) == [numbered(to, 0), numbered(to, 1)] for to in range(1, n_guests))


@ring_formats
def test_what_waits_for_longer_than_the_hold_timeout_is_dropped(ring: int) -> None:
    with hub(3, F_VERSION_1 | ring, posted=0, hold_ms=SHORT_MS) as h:
        know(h, 1)
        h.guests[0].driver.send_at_once(*[numbered(1, n) for n in range(5)])
        h.settle()
        time.sleep(SHORT_MS / 1000)
        h.settle()
        assert (h.workers[0].waiting, no_room(h, 1)) == (0, 5)
        h.guests[1].driver.post(1)
        send(h, numbered(1, 9))
        assert taken(h, 1) == [numbered(1, 9)]


# Queues that stop


@ring_formats
@pytest.mark.parametrize("change", ["stopped", "stopped and started again", "disabled", "its memory gone"])
def test_a_queue_that_stops_gives_its_backlog_up(ring: int, change: str) -> None:
    """Also where its worker goes no round in between."""
    with hub(3, F_VERSION_1 | ring, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        send(h, *[numbered(1, n) for n in range(5)])
        guest = h.guests[1]
        if change == "disabled":
            guest.port.set_enabled(0, False)
        elif change == "its memory gone":
            guest.port.set_memory(None)
        else:
            base = guest.port.stop_queue(0)
            if change == "stopped and started again":
                guest.start(0, base=base)
        guest.driver.post(8)
        h.settle()
        assert h.workers[0].waiting == 0
        assert guest.port.counters().tx_dropped["ring_disabled"] == 5
        assert taken(h, 1) == []
        if change == "stopped and started again":
            send(h, numbered(1, 9))
            assert taken(h, 1) == [numbered(1, 9)]


def test_a_queue_keeps_its_backlog_where_its_guest_only_gets_other_memory() -> None:
    with hub(3, posted=0, hold_ms=LONG_MS) as h:
        know(h, 1)
        send(h, *[numbered(1, n) for n in range(5)])
        h.guests[1].port.set_memory(mapped(h.guests[1].memory))
        h.guests[1].driver.post(8)
        h.settle()
        assert taken(h, 1) == [numbered(1, n) for n in range(5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_removed_gives_its_backlog_up(workers: int) -> None:
    with members("ab", workers, hold_ms=LONG_MS) as m:
        c = m.add("c", 2)
        m.send("c", ethernet(mac(2), mac(2)))
        m.settle()
        frames = [ethernet(mac(2), mac(0), bytes([n]) * 46) for n in range(40)]
        m.send("a", *frames)
        assert m.settle()["c"] == frames[:32]
        assert sum(worker.waiting for worker in m.workers) == 8
        m.rewiring.commit(leave=[m.wires.pop("c")], seat=[(m.bridge, 2, None)])
        assert sum(worker.waiting for worker in m.workers) == 0
        assert c.port.counters().tx_dropped["no_egress"] == 8
        m.rewiring.dismiss(c.port, bridge=m.bridge)
        m.guests.pop("c").close()
        m.send("a", ethernet(mac(1), mac(0)))
        m.settle()


# Tags


@ring_formats
def test_frames_wait_in_the_form_in_which_they_leave(ring: int) -> None:
    """With a tag pushed, with one popped, and of the VLAN that they had; in one burst, and of different lengths."""
    ports = access(10), trunk(10, 20), access(20)
    with vlan_hub(*ports, features=F_VERSION_1 | NET_F_MRG_RXBUF | ring, posted=0, hold_ms=LONG_MS) as h:
        for port, tags in ((0, b""), (1, tag(10)), (1, tag(20)), (2, b"")):
            h.guests[port].driver.send(tagged(mac(port), mac(port), tags))
        h.settle()
        sent = [bytes([n]) * (46 + 100 * (n % 3)) for n in range(30)]
        for payload in sent:
            h.guests[0].driver.send(tagged(mac(1), mac(0), b"", payload))
            h.guests[1].driver.send(tagged(mac(2), mac(1), tag(20, 5), payload))
        h.settle()
        assert h.worker.waiting == 60
        for port in (1, 2):
            h.guests[port].driver.post(30)
        h.settle()
        assert h.arrived(1) == [tagged(mac(1), mac(0), tag(10), payload) for payload in sent]
        assert h.arrived(2) == [tagged(mac(2), mac(1), b"", payload) for payload in sent]


def test_a_port_whose_vlans_change_gives_its_backlog_up() -> None:
    """What was decided by the VLANs that it had must not reach it by then."""
    with members("ab", hold_ms=LONG_MS) as m:
        m.send("b", ethernet(mac(1), mac(1)))
        m.settle()
        m.send("a", *[ethernet(mac(1), mac(0), bytes([n]) * 46) for n in range(40)])
        assert len(m.settle()["b"]) == 32
        m.rewiring.set_vlans(m.bridge, [(1, 8, None)])
        m.guests["b"].driver.post(8)
        assert m.settle()["b"] == []
        assert m.guests["b"].port.counters().tx_dropped["vlan_denied"] == 8


# Super-frames

KINDS = {
    "tcp4": {"flags": ACK | PSH | FIN | CWR},
    "tcp4 with options": {"flags": ACK | PSH, "options": b"\1" * 12, "extra": b"\1" * 8, "tags": b"\x81\0\0\x2a"},
    "tcp6": {"ipv6": True, "flags": ACK | FIN},
    "udp4": {"udp": True},
    "udp6": {"udp": True, "ipv6": True},
}
WHOSE = bytes(range(6))
"""The destination of a SuperFrame."""


def send_super(h: Hub, *frames: SuperFrame) -> None:
    for one in frames:
        send(h, one.frame, header=NET_HEADER.pack(*one.asks, 0))


@ring_formats
@pytest.mark.parametrize("room", [0, 3, 8], ids=lambda room: f"room for {room}")
@pytest.mark.parametrize("kind", KINDS)
def test_a_super_frame_that_is_cut_half_way_waits_and_goes_on_piece_by_piece(ring: int, kind: str, room: int) -> None:
    """Whatever part of it was delivered straight from its sender; and so do frames behind it."""
    sizes = (10_000, 1448), (9_001, 700), (700, 1448), (20_000, 64 * 5)
    frames = [SuperFrame(bytes([n]) * length, size, **KINDS[kind]) for n, (length, size) in enumerate(sizes)]  # type: ignore[arg-type]
    expected = [piece for one in frames for piece in one.pieces]
    features = F_VERSION_1 | ring
    with hub(2, [features | OFFLOADS, features], posted=0, size=512, hold_ms=LONG_MS) as h:
        h.guests[1].driver.send(ethernet(WHOSE, WHOSE))
        h.settle()
        h.guests[1].driver.post(room)
        send_super(h, *frames)
        assert h.workers[0].waiting == len(frames) - (room > 7)
        assert taken(h, 1) == expected[:room]
        for n in range(room, len(expected)):
            h.guests[1].driver.post(1)
            h.settle()
            assert h.guests[1].driver.receive(0, repost=False) == expected[n]
        counted = h.guests[1].port.counters()
        assert (counted.cut, counted.segmented, h.workers[0].waiting) == (len(frames), len(expected), 0)


@ring_formats
def test_a_super_frame_waits_whole_for_a_guest_that_takes_it_whole(ring: int) -> None:
    one = SuperFrame(bytes(range(250)) * 200, 1448)
    features = F_VERSION_1 | OFFLOADS | ring
    with hub(2, features, posted=0, hold_ms=LONG_MS) as h:
        h.guests[1].driver.send(ethernet(WHOSE, WHOSE))
        h.settle()
        send_super(h, one)
        h.guests[1].driver.post(1, bytes=65536)
        h.settle()
        assert taken(h, 1) == [one.frame]
        assert NET_HEADER.unpack(h.guests[1].driver.received_header)[:2] == one.asks[:2]


@ring_formats
def test_a_checksum_that_nobody_filled_in_waits_and_is_filled_in(ring: int) -> None:
    one = SuperFrame(b"payload" * 50, 1448)
    features = F_VERSION_1 | ring
    with hub(2, [features | OFFLOADS, features], posted=0, hold_ms=LONG_MS) as h:
        h.guests[1].driver.send(ethernet(WHOSE, WHOSE))
        h.settle()
        send(h, one.frame, header=NET_HEADER.pack(1, 0, 0, 0, *one.asks[4:], 0))
        h.guests[1].driver.post(1)
        h.settle()
        assert taken(h, 1) == list(one.pieces)


@ring_formats
def test_a_super_frame_whose_rest_is_too_late_is_dropped_and_counted_once(ring: int) -> None:
    one = SuperFrame(bytes(10_000), 1448)
    features = F_VERSION_1 | ring
    with hub(2, [features | OFFLOADS, features], posted=0, hold_ms=SHORT_MS) as h:
        h.guests[1].driver.send(ethernet(WHOSE, WHOSE))
        h.settle()
        h.guests[1].driver.post(2)
        send_super(h, one)
        time.sleep(SHORT_MS / 1000)
        h.settle()
        assert no_room(h, 1) == 1
        assert (h.guests[1].port.counters().cut, h.guests[1].port.counters().segmented) == (0, 2)


def test_a_running_worker_drops_what_waited_for_too_long() -> None:
    with hub(3, posted=0, hold_ms=SHORT_MS, idle="adaptive") as h:
        know(h, 1)
        send(h, numbered(1, 1))
        thread = threading.Thread(target=h.workers[0].run)
        thread.start()
        try:
            wait_until("the frame is dropped", 5, lambda: no_room(h, 1))
        finally:
            h.workers[0].stop()
            thread.join()
