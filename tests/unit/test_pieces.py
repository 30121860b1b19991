"""Frames in several pieces between a guest and another one, or a port that needs no interface of this host."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.port import NullPort
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.hostside.pcap_file import PcapFileService
from tests.unit.guest_and_port import BUFFERS, MOST, RINGS, frames, guest_and_port, post, send
from tests.unit.rig import rig
from tests.unit.test_packet_ring import BLOCK_BYTES, FakeRing
from tests.unit.test_pcap_file import load, save
from tests.unit.test_segmentation import TCPV4, check, super_frame

pytestmark = pytest.mark.parametrize("ring", RINGS)


@pytest.mark.parametrize("buffers", BUFFERS)
def test_a_guest_gets_frames_that_another_guest_sent_in_pieces(ring: str, buffers: str) -> None:
    sent = frames()
    with rig(features=RINGS[ring] | BUFFERS[buffers].features) as both:
        post(both.b, BUFFERS[buffers])
        send(both.a, sent)
        found: list[bytes] = []
        while both.settle():
            found += both.b.driver.receive_all()
        assert found == sent
        assert [used.bytes for used in both.a.queues[1].take_used()] == [0] * MOST


def test_a_program_gets_frames_that_the_guest_sent_in_pieces(ring: str) -> None:
    sent = frames()
    with guest_and_port(lambda door: Endpoint("e", door, slots=256), RINGS[ring]) as pair:
        send(pair.guest, sent)
        pair.wait_sent(MOST)
        with pair.port.recv(MOST + 1, timeout=0) as burst:
            assert [bytes(view) for view in burst] == sent


@pytest.mark.parametrize("buffers", BUFFERS)
def test_a_guest_gets_a_programs_frames_in_buffers_of_several_pieces(ring: str, buffers: str) -> None:
    sent = frames()
    with guest_and_port(lambda door: Endpoint("e", door, slots=256), RINGS[ring] | BUFFERS[buffers].features) as pair:
        post(pair.guest, BUFFERS[buffers])
        for at in range(0, MOST, 8):
            assert pair.port.send(sent[at : at + 8]) == len(sent[at : at + 8])
            assert pair.received(len(sent[at : at + 8])) == sent[at : at + 8]


def test_frames_in_pieces_that_nobody_wants_are_counted_whole_and_given_back(ring: str) -> None:
    sent = frames()
    with guest_and_port(lambda _: NullPort("n"), RINGS[ring]) as pair:
        send(pair.guest, sent)
        pair.wait_sent(MOST)
        counted = pair.port.counters()
        assert (counted.tx_frames, counted.tx_bytes) == (MOST, sum(map(len, sent)))


def test_frames_in_pieces_are_recorded_as_they_were_sent(ring: str, tmp_path: Path) -> None:
    sent = frames()
    with guest_and_port(lambda door: Endpoint("f", door, slots=256), RINGS[ring]) as pair:
        service = PcapFileService(pair.port, recorded=f"{tmp_path}/out.pcap")
        service.open()
        send(pair.guest, sent)
        pair.wait_sent(MOST)
        service.stop(MAX_WAIT)
    assert load(tmp_path / "out.pcap") == sent


@pytest.mark.parametrize("buffers", BUFFERS)
def test_a_guest_gets_a_played_file_in_buffers_of_several_pieces(ring: str, buffers: str, tmp_path: Path) -> None:
    sent = frames()
    save(tmp_path / "in.pcap", [(0, one) for one in sent])
    with guest_and_port(lambda door: Endpoint("f", door), RINGS[ring] | BUFFERS[buffers].features) as pair:
        post(pair.guest, BUFFERS[buffers])
        service = PcapFileService(pair.port, played=f"{tmp_path}/in.pcap")
        service.open()
        service.start()
        try:
            assert pair.received(MOST) == sent
        finally:
            service.stop(MAX_WAIT)


@pytest.mark.parametrize("buffers", BUFFERS)
def test_a_guest_gets_the_pieces_of_a_super_frame_each_with_its_own_header(ring: str, buffers: str) -> None:
    """Such a frame is in two pieces where it begins: a header that the port wrote, and a part of the kernel's block."""
    payload = random.Random(7).randbytes(21 * 300 - 50)
    header = struct.pack("=BBHHHH", 1, TCPV4, 0, 300, 34, 16)
    behind = frames(3)
    fake, nothing = FakeRing(), os.open("/dev/null", os.O_RDWR)
    try:
        with guest_and_port(lambda door: PacketPort("p", door), RINGS[ring] | BUFFERS[buffers].features) as pair:
            pair.port.attach(fake.memory, BLOCK_BYTES, nothing, nothing, nothing)
            post(pair.guest, BUFFERS[buffers])
            assert fake.close_block([super_frame(payload)], header)
            assert fake.close_block(behind)
            found = pair.received(21 + 3)
            cut = [payload[at : at + 300] for at in range(0, len(payload), 300)]
            assert [check(piece) for piece in found[:21]] == cut
            assert found[21:] == behind
    finally:
        os.close(nothing)
