"""A program that takes and sends what is left to a card, by an endpoint with offloads; and one that does not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import fastvhost
from bench import conservation
from examples import super_frames
from fastvhost import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Door, Offload, Worker
from fastvhost.dataplane.ports.endpoint import Endpoint
from tests.probes.contract import send_unchecked
from tests.unit.test_segmentation import check, datagrams, super_frame

TCP_SUM = Offload(needs_csum=True, csum_start=34, csum_offset=16)
SUPER = TCP_SUM._replace(gso_type=GSO_TCPV4, gso_size=1448, hdr_len=66)
UDP_SUPER = Offload(needs_csum=True, csum_start=34, csum_offset=6, gso_type=GSO_UDP_L4, gso_size=1000, hdr_len=42)


@dataclass
class Two:
    """One endpoint wired to another, by a worker that a test lets go round."""

    a: Endpoint
    b: Endpoint
    worker: Worker

    def send(self, *frames: tuple[bytes, Offload]) -> None:
        for data, asked in frames:
            with self.a.lend(1, len(data), timeout=0) as burst:
                burst[0][:] = data
                burst.set_offload(0, asked)
                assert self.a.send(burst) == 1

    def received(self) -> list[tuple[bytes, Offload]]:
        """All that arrives, in as many rounds as that takes."""
        found: list[tuple[bytes, Offload]] = []
        while True:
            moved = self.worker.step()
            with self.b.recv(64, timeout=0) as burst:
                found += [(bytes(burst[i]), burst.offload(i)) for i in range(len(burst))]
                if not moved and not len(burst):
                    return found


def two(*, offloads: bool, slots: int = 256) -> Two:
    door = Door()
    a, b = Endpoint("a", door, offloads=True), Endpoint("b", door, slots=slots, offloads=offloads)
    worker = Worker(door)
    worker.add_wire(a, b, hold=True, hold_timeout_ms=60_000)
    return Two(a, b, worker)


@pytest.fixture(params=[True, False], ids=["offloads", "plain"])
def scene(request: pytest.FixtureRequest) -> Iterator[Two]:
    made = two(offloads=request.param)
    yield made
    conservation.check(made.worker, made.a, made.b)
    made.worker.close()


def test_what_a_program_leaves_to_others_another_one_gets_as_it_was_or_done(scene: Two) -> None:
    payload = random.Random(1).randbytes(60_000)
    whole, short, plain = super_frame(payload), super_frame(b"odd"), b"\1" * 60
    scene.send((short, TCP_SUM), (whole, SUPER), (plain, Offload()))
    got = scene.received()
    if scene.b.offloads:
        assert got == [(short, TCP_SUM), (whole, SUPER), (plain, Offload())]
        assert (scene.b.counters().cut, scene.b.counters().segmented) == (0, 0)
        return
    assert {asked for _, asked in got} == {Offload()}
    frames = [data for data, _ in got]
    assert (check(frames[0]), frames[-1]) == (b"odd", plain)
    assert b"".join(map(check, frames[1:-1])) == payload
    assert (scene.b.counters().cut, scene.b.counters().segmented) == (1, len(frames) - 2)


def test_a_super_frame_that_is_cut_waits_half_way_for_room_and_goes_on_there() -> None:
    scene, payload = two(offloads=False, slots=16), random.Random(2).randbytes(30_000)
    scene.send((super_frame(payload), SUPER))
    scene.worker.step()
    assert scene.b.counters().tx_frames == 8
    conservation.check(scene.worker, scene.a, scene.b)
    assert b"".join(check(data) for data, _ in scene.received()) == payload
    conservation.check(scene.worker, scene.a, scene.b)
    scene.worker.close()


def test_a_received_frame_that_goes_back_says_what_it_said_and_a_buffer_lent_again_is_plain() -> None:
    scene = two(offloads=True)
    scene.worker.add_wire(scene.b, scene.a, hold=True, hold_timeout_ms=1000)
    frame = super_frame(bytes(5000))
    scene.send((frame, SUPER))
    scene.worker.step()
    scene.b.send(scene.b.recv(timeout=0))
    scene.worker.step()
    with scene.a.recv(timeout=0) as back:
        assert (bytes(back[0]), back.offload(0), back.offload(-1)) == (frame, SUPER, SUPER)
        back.fill(bytes(60))
        assert back.offload(0) == Offload()
    for _ in range(3):
        with scene.b.lend(256, timeout=0) as lent:
            assert {lent.offload(i) for i in range(len(lent))} == {Offload()}
            lent.set_offload(0, TCP_SUM)
    scene.worker.close()


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"csum_start": 3000}, "csum_start 3000 and csum_offset 16: the checksum would end at 3018, beyond a frame of"),
        ({"csum_offset": 65535}, "csum_start 34 and csum_offset 65535: .* give the place of TCP or UDP, and 16 or 6"),
        ({"csum_start": -1}, "csum_start -1: it has 16 bits; give 0 to 65535"),
        ({"hdr_len": 65536}, "hdr_len 65536: it has 16 bits"),
        ({"gso_type": 3}, "gso_type 3: there is none; give 0, GSO_TCPV4, GSO_TCPV6 or GSO_UDP_L4"),
        ({"gso_type": GSO_ECN}, "gso_type 128: there is none"),
        ({"gso_type": 256 + GSO_TCPV6}, "gso_type 260: there is none"),
        (
            {"needs_csum": False},
            "gso_type 1 without needs_csum: segments need checksums; give csum_start and csum_offset",
        ),
        ({"gso_size": 63}, "gso_size 63: of a frame of 2066 bytes, segments have 64 at the least"),
    ],
)
def test_a_field_that_no_frame_has_is_named_with_what_helps_and_changes_nothing(
    changed: dict[str, Any], fault: str
) -> None:
    endpoint = Endpoint("e", Door(), offloads=True)
    with endpoint.lend(1, len(super_frame(bytes(2000)))) as burst:
        burst.set_offload(0, SUPER)
        with pytest.raises(ValueError, match=fault):
            burst.set_offload(0, SUPER._replace(**changed))
        assert burst.offload(0) == SUPER
        burst.set_offload(0, SUPER._replace(gso_type=GSO_TCPV6 | GSO_ECN))


def test_a_frame_that_got_another_length_is_refused_when_it_is_sent_and_goes_once_that_is_put_right() -> None:
    scene = two(offloads=True)
    burst = scene.a.lend(2, 5066)
    burst.set_offload(1, SUPER)
    burst.resize(1, 40)
    with pytest.raises(ValueError, match=r"frame 1: csum_start 34 and csum_offset 16: .* beyond a frame of 40 bytes"):
        scene.a.send(burst)
    burst.set_offload(1, Offload())
    assert scene.a.send(burst) == 2
    assert [(len(data), asked) for data, asked in scene.received()] == [(5066, Offload()), (40, Offload())]
    scene.worker.close()


def test_the_longest_frames_may_have_at_most_1024_segments() -> None:
    endpoint = Endpoint("e", Door(), offloads=True)
    with endpoint.lend(1, 65549) as burst:
        with pytest.raises(ValueError, match="gso_size 63: of a frame of 65549 bytes, segments have 64 at the least"):
            burst.set_offload(0, SUPER._replace(gso_size=63))
        burst.set_offload(0, SUPER._replace(gso_size=64))
        burst.resize(0, 65550)
        with pytest.raises(ValueError, match="a frame of 65550 bytes; one that leaves work to others has 65549"):
            endpoint.send(burst)


def test_an_endpoint_without_offloads_sends_plain_frames_only() -> None:
    endpoint = Endpoint("e", Door())
    assert (endpoint.offloads, endpoint.slot_bytes) == (False, 9216)
    with endpoint.lend(1, 60) as burst:
        assert burst.offload(0) == Offload()
        burst.set_offload(0, Offload())
        with pytest.raises(ValueError, match="endpoint e takes plain frames; make it with offloads=True"):
            burst.set_offload(0, TCP_SUM)
        with pytest.raises(TypeError, match=r"tuple is no fastvhost\.Offload"):
            burst.set_offload(0, tuple(TCP_SUM))  # type: ignore[arg-type]
    for spent in (lambda: burst.offload(0), lambda: burst.set_offload(0, Offload())):
        with pytest.raises(IndexError, match="given back"):
            spent()


def test_what_a_program_in_cython_asks_wrongly_is_dropped_and_its_buffers_return() -> None:
    scene = two(offloads=True)
    for _ in range(scene.a.slots):  # more than are the program's
        send_unchecked(scene.a, bytes(60), (1, 0, 0, 0, 50, 10))
        send_unchecked(scene.a, bytes(65600), (1, 0, 0, 0, 34, 16))
        assert scene.worker.step() == 0
    dropped = scene.a.counters().rx_dropped
    assert (dropped["gso_unsupported"], dropped["oversize"]) == (scene.a.slots, scene.a.slots)
    scene.send((super_frame(b"right"), TCP_SUM))
    assert scene.received() == [(super_frame(b"right"), TCP_SUM)]
    conservation.check(scene.worker, scene.a, scene.b)
    scene.worker.close()


def test_slots_that_hold_no_super_frame_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError, match="slots of 9216 bytes hold no super-frame; with offloads=True leave slot_bytes"
    ):
        Endpoint("e", Door(), offloads=True, slot_bytes=9216)
    assert Endpoint("e", Door(), offloads=True, slot_bytes=65549).slot_bytes == 65600


def test_datagrams_in_one_frame_are_cut_for_a_program_that_takes_none() -> None:
    scene = two(offloads=False)
    scene.send((datagrams(bytes(2500)), UDP_SUPER))
    assert [len(data) for data, _ in scene.received()] == [1042, 1042, 542]
    scene.worker.close()


def test_the_example_says_what_frames_leave_to_others_and_returns_them_so() -> None:
    scene = two(offloads=True)
    scene.worker.add_wire(scene.b, scene.a, hold=True, hold_timeout_ms=1000)
    scene.send((super_frame(bytes(5000)), SUPER), (super_frame(b"1"), TCP_SUM), (bytes(60), Offload()))
    scene.worker.step()
    assert sorted(super_frames.return_burst(scene.b, 0)) == [
        "TCP over IPv4, to be cut into segments of 1448 bytes",
        "a checksum at 50, of all from 34 on",
        "nothing",
    ]
    scene.worker.step()
    with scene.a.recv(timeout=0) as back:
        assert [back.offload(i) for i in range(3)] == [SUPER, TCP_SUM, Offload()]
        assert bytes(back[0][:12]) == bytes((*range(6, 12), *range(6)))
    scene.worker.close()


def test_an_attached_program_chooses() -> None:
    assert not fastvhost.attach("null:").endpoint.offloads
    attached = fastvhost.attach("null:", offloads=True)
    assert attached.endpoint.offloads
    with attached, attached.endpoint.lend(1, 60) as burst:
        burst.set_offload(0, TCP_SUM)
        assert attached.endpoint.send(burst) == 1
