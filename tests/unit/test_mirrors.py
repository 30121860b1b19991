"""Mirrors: what of a port's frames is copied, to whom, and that nobody waits for the copies."""

from __future__ import annotations

import pytest

from bench import conservation
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC
from tests.unit.test_learn import EVERYBODY, Hub, ethernet, hub, mac

A, B, C, M = range(4)


def send(h: Hub, port: int, *frames: bytes) -> None:
    for frame in frames:
        h.guests[port].driver.send(frame)
    h.settle()
    conservation.check(h.workers[0], *(guest.port for guest in h.guests))


def arrived(h: Hub) -> list[list[bytes]]:
    return [h.arrived(i) for i in range(len(h.guests))]


def introduce(h: Hub) -> None:
    for port in range(len(h.guests)):
        send(h, port, ethernet(EVERYBODY, mac(port)))
    arrived(h)


def mirror(h: Hub, port: int, to: int | None) -> None:
    h.bridge.mirror(h.guests[port].port, None if to is None else h.guests[to].port)


def dropped(h: Hub, port: int, direction: str = "rx") -> dict[str, int]:
    counters = h.guests[port].port.counters()
    return {k: n for k, n in (counters.rx_dropped if direction == "rx" else counters.tx_dropped).items() if n}


@pytest.mark.parametrize("ring", [0, F_RING_PACKED], ids=["split", "packed"])
def test_a_copy_of_what_a_port_sends_and_receives_goes_to_its_mirror_once(ring: int) -> None:
    with hub(features=F_VERSION_1 | NET_F_MRG_RXBUF | RING_F_INDIRECT_DESC | ring) as h:
        introduce(h)
        mirror(h, A, M)
        there, back, beside = ethernet(mac(B), mac(A)), ethernet(mac(A), mac(B)), ethernet(mac(C), mac(B))
        send(h, A, there, there)
        send(h, B, back, beside)
        assert arrived(h) == [[back], [there, there], [beside], [there, there, back]]
        mirror(h, A, None)
        send(h, A, there)
        assert arrived(h) == [[], [there], [], []]


def test_a_flooded_frame_of_a_mirrored_port_reaches_everybody_once() -> None:
    with hub() as h:
        mirror(h, A, M)
        frame = ethernet(EVERYBODY, mac(A))
        send(h, A, frame)
        assert arrived(h) == [[], [frame], [frame], [frame]]


def test_what_a_mirrored_port_sends_is_copied_also_where_it_goes_no_further() -> None:
    with hub() as h:
        introduce(h)
        mirror(h, A, M)
        h.bridge.guard(h.guests[A].port, [mac(A).hex(":")])
        spoofed, to_itself = ethernet(mac(B), mac(9)), ethernet(mac(A), mac(A))
        reserved = ethernet(b"\x01\x80\xc2\0\0\x0e", mac(A))
        good = ethernet(mac(B), mac(A))
        send(h, A, spoofed, to_itself, good, reserved)
        assert arrived(h) == [[], [good], [], [spoofed, to_itself, good, reserved]]
        assert dropped(h, A) == {"spoofed_source": 1, "same_port": 1, "reserved_address": 1}


def test_what_a_mirror_sends_and_what_it_is_sent_is_its_own() -> None:
    with hub() as h:
        introduce(h)
        mirror(h, A, M)
        to_it, from_it, from_b = ethernet(mac(M), mac(A)), ethernet(mac(A), mac(M)), ethernet(mac(M), mac(B))
        send(h, M, from_it, ethernet(EVERYBODY, mac(M)))
        send(h, A, to_it)
        send(h, B, from_b)
        got = arrived(h)
        assert got[M] == [to_it, from_b]
        assert got[A] == [ethernet(EVERYBODY, mac(M)), from_it]


def test_two_ports_with_one_mirror_have_a_copy_each_and_no_copy_is_copied() -> None:
    with hub() as h:
        introduce(h)
        mirror(h, A, M)
        mirror(h, B, M)
        frame = ethernet(mac(B), mac(A))
        send(h, A, frame)
        assert arrived(h) == [[], [frame], [], [frame, frame]]
        for one, other in ((M, C), (C, A), (A, A)):
            with pytest.raises(ValueError, match="mirror"):
                mirror(h, one, other)


def test_copies_without_room_are_dropped_and_nobody_waits_for_them() -> None:
    with hub() as h:
        introduce(h)
        mirror(h, A, M)
        frame = ethernet(mac(B), mac(A))
        for _ in range(4):
            send(h, A, *[frame] * 32)
            assert len(h.arrived(B)) == 32
        assert dropped(h, M, "tx") == {"mirror_full": 128 - 64}  # it has 64 buffers, and takes none back
        assert dropped(h, A) == dropped(h, B, "tx") == {}
        assert h.arrived(M) == [frame] * 64


def give_tiny_buffers(h: Hub, port: int) -> None:
    """Too many of them for one visit (VISIT_PIECES): 64 frames take 320."""
    driver = h.guests[port].driver
    send(h, C, *[ethernet(mac(port), mac(C))] * 64)
    for _ in range(64):
        driver.receive(0.0, repost=False)
    driver.post(640, bytes=16)


@pytest.mark.parametrize("slow", [B, M], ids=["receiver", "mirror"])
def test_nothing_is_released_before_the_last_copy_and_no_mirror_is_waited_for(slow: int) -> None:
    with hub(features=F_VERSION_1 | NET_F_MRG_RXBUF, size=1024) as h:
        introduce(h)
        give_tiny_buffers(h, slow)
        mirror(h, A, M)
        frames = [ethernet(mac(B), mac(A), bytes([n]) * 46) for n in range(64)]
        h.guests[A].driver.reclaim()
        h.guests[A].driver.send_at_once(*frames)
        assert h.workers[0].step()
        assert h.guests[A].driver.reclaim() == 64  # all at once, or they would be others by the last copy
        h.settle()
        conservation.check(h.workers[0], *(guest.port for guest in h.guests))
        assert h.arrived(B) == frames
        copied = h.arrived(M)
        assert copied == frames[: len(copied)]
        assert dropped(h, M, "tx") == ({} if slow == B else {"mirror_full": 64 - len(copied)})
        assert len(copied) == 64 if slow == B else 50 <= len(copied) < 60


def test_a_port_that_is_removed_has_no_mirror_and_is_none() -> None:
    with hub() as h:
        introduce(h)
        mirror(h, A, M)
        mirror(h, B, M)
        h.bridge.forget(h.guests[M].port)
        h.bridge.forget(h.guests[A].port)
        send(h, A, ethernet(mac(B), mac(A)))
        assert arrived(h) == [[], [ethernet(mac(B), mac(A))], [], []]


def test_frames_of_a_burst_are_copied_in_their_order() -> None:
    with hub() as h:
        introduce(h)
        mirror(h, A, M)
        mirror(h, B, M)
        frames = [ethernet(mac(B if n % 3 else C), mac(A), bytes([n]) * 46) for n in range(30)]
        send(h, A, *frames)
        got = arrived(h)
        assert got[M][:30] == frames
        assert got[M][30:] == got[B] == [frame for frame in frames if frame[5] == B]
