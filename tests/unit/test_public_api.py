"""No argument of anything public, and no order of calls, crashes the interpreter."""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping, MemoryRefusedError
from fastvhost.dataplane.port import NullPort, Port
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.ports.endpoint_burst import Burst
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.dataplane.ports.pcap_file import Player, Recorder
from fastvhost.dataplane.ports.tap import TapPort
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.driver.copy_limit import CopyLimit
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings
from tests.house.sources import ROOT
from tests.probes.offloads import cut
from tests.unit.rig import rig

MIB = 1 << 20
CALLS = 6000


def test_odd_calls_of_everything_public_raise_and_never_crash(tmp_path: Path) -> None:
    seed, note = str(random.randrange(1 << 30)), tmp_path / "call"
    script = (ROOT / "tests" / "odd_calls.py").read_text()
    done = subprocess.run(
        [sys.executable, "-c", script, seed, str(CALLS), str(note)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else str(done.returncode)
    assert done.returncode == 0, f"seed {seed} ended with {ended} in {note.read_text().strip()}\n{done.stderr[-2000:]}"
    # It found what there is to call.
    classes, _, functions, _, calls, _ = done.stdout.replace(",", "").split()
    assert int(classes) >= 100
    assert int(functions) >= 90
    assert int(calls) >= CALLS


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint("e", Door(), slots=8, slot_bytes=256)


def test_a_negative_index_counts_from_the_end_wherever_a_burst_is_indexed(endpoint: Endpoint) -> None:
    burst = endpoint.lend(3, 60)
    assert len(burst.resize(-1, 200)) == 200
    assert [len(frame) for frame in burst] == [60, 60, 200]
    for beyond in (-4, 3, -(2**63), 2**63 - 1):
        with pytest.raises(IndexError):
            burst.resize(beyond, 200)
        with pytest.raises(IndexError):
            burst[beyond]


def test_a_burst_is_made_by_its_endpoint_alone() -> None:
    for make in (Burst, lambda: Burst.__new__(Burst), lambda: Burst(object())):  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"Endpoint.recv and Endpoint.lend return one"):
            make()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("-inf")])
def test_a_timeout_below_zero_is_refused_and_does_not_wait_for_ever(endpoint: Endpoint, timeout: float) -> None:
    for call in (endpoint.recv, endpoint.lend):
        with pytest.raises(ValueError, match="give 0 or more"):
            call(1, timeout=timeout)
    with pytest.raises(ValueError, match="give 0 or more"):
        endpoint.wait(timeout)


def test_the_largest_endpoint_has_memory_for_all_of_its_slots() -> None:
    door = Door()
    largest = Endpoint("e", door, slots=65536, slot_bytes=65600)  # more than 4 GiB of addresses
    bursts = [largest.lend(32768, 60)]
    assert len(bursts[0]) == 32768
    bursts[0][-1][:] = b"\1" * 60


def test_a_port_that_was_never_made_is_refused_by_wires() -> None:
    worker = Worker(Door())
    for port in (Port(), VirtioPort.__new__(VirtioPort), TapPort.__new__(TapPort)):
        with pytest.raises(ValueError, match="call __init__ of a port first"):
            worker.add_wire(port, None, hold=True, hold_timeout_ms=0)
        with pytest.raises(ValueError, match="call __init__ of a port first"):
            worker.add_wire(NullPort("n"), port, hold=True, hold_timeout_ms=0)


def test_no_queue_ever_has_two_workers() -> None:
    door = Door()
    a, b, c = (Endpoint(name, door) for name in "abc")
    first, second = Worker(door, "first"), Worker(door, "second")
    wire = first.add_wire(a, c, hold=True, hold_timeout_ms=0)
    with pytest.raises(ValueError, match="has its worker"):
        second.share_wire(wire, 0)
    with pytest.raises(ValueError, match="the ingress of another wire"):
        second.add_wire(a, b, hold=True, hold_timeout_ms=0)
    with pytest.raises(ValueError, match="first delivers to share 0"):
        second.add_wire(b, c, hold=True, hold_timeout_ms=0)
    with pytest.raises(ValueError, match="different doors"):
        Worker(Door()).add_wire(b, None, hold=True, hold_timeout_ms=0)
    first.close()
    for call in (first.step, first.run, lambda: first.share_wire(wire, 0)):
        with pytest.raises(ValueError, match="closed"):
            call()
    second.share_wire(wire, 0)


def test_a_mapping_that_a_port_uses_stays_until_the_port_lets_go() -> None:
    with rig() as r:
        r.b.driver.post(4)
        mapping = Mapping(r.b.memory.regions[0].fd, 0, MIB, 0, 0)
        memory = GuestMemory([mapping])
        spare = VirtioPort("spare", r.door)
        spare.set_memory(memory)
        mapping.close()
        assert mapping.closed
        spare.start_queue(0, QueueSetup(4, 0x1000, 0x2000, 0x3000, base=0))
        assert spare.queue_state(0).live
        with pytest.raises(MemoryRefusedError, match="closed already"):
            VirtioPort("late", r.door).set_memory(memory)
        spare.set_memory(None)
        with pytest.raises(MemoryRefusedError, match="closed already"):
            spare.set_memory(memory)
        spare.close()


def test_the_ring_of_a_packet_port_cannot_go_while_it_is_attached() -> None:
    port, ring = PacketPort("p", Door()), mmap.mmap(-1, 1 << 16)
    port.attach(ring, 4096, -1, -1, -1)
    with pytest.raises(BufferError):
        ring.close()
    port.detach()
    ring.close()
    for block_bytes, room in ((0, 8192), (1, 8192), (8192, 4096)):
        with pytest.raises(ValueError, match="port p"):
            port.attach(bytearray(room), block_bytes, -1, -1, -1)


def test_a_ring_of_packets_full_of_nonsense_is_dropped_block_by_block() -> None:
    door = Door()
    port, egress = PacketPort("p", door), Endpoint("e", door)
    worker = Worker(door)
    worker.add_wire(port, egress, hold=False, hold_timeout_ms=0)
    for number in range(200):
        ring = bytearray(random.Random(number).choice((b"\1", b"\xff", b"\x01\0\0\0", b"\x30\0\0\0")) * 16384)[:16384]
        for block in range(4):
            ring[4096 * block + 8 : 4096 * block + 20] = b"\1\0\0\0" b"\xff\xff\xff\xff" b"\xf0\x0f\0\0"
        port.attach(ring, 4096, os.open(os.devnull, os.O_RDONLY), -1, -1)
        port.set_link(True)
        for _ in range(4):
            worker.step()
        port.detach()
    assert sum(port.counters().rx_dropped.values()) > 0


def test_a_checksum_field_that_lies_outside_its_frame_is_not_written() -> None:
    for start, offset in ((0, -1), (0, 2**31 - 1), (59, 0), (58, 1), (-1, 0)):
        assert cut(bytes(60), 0, 0, start, offset) == []
    assert len(cut(bytes(60), 0, 0, 58, 0)) == 1


def test_capture_files_that_were_never_opened_or_are_closed_hold_nothing(tmp_path: Path, endpoint: Endpoint) -> None:
    player = Player.__new__(Player)
    assert (player.play(endpoint, 64, -1), player.next_us()) == (0, -1)
    recorder = Recorder(str(tmp_path / "a.pcap"))
    recorder.close()
    for one in (recorder, Recorder.__new__(Recorder)):
        with pytest.raises(ValueError, match="an open file"):
            one.flush()
        with pytest.raises(ValueError, match="an open file"):
            one.record(endpoint, 1)


def guest() -> GuestDevice:
    return GuestDevice(GuestSettings(queue_size=4, huge=False, kick=False), features=1 << 32, tag=1, peer_tag=2)


def test_a_guests_memory_stays_while_a_device_or_a_load_works_on_it() -> None:
    a, b = guest(), guest()
    load, limit = Load(a, b), CopyLimit(a, b)
    with pytest.raises(ValueError, match="close that"):
        a.ram.close()
    assert load.step() + limit.step() >= 0
    a.ram.write(0, b"\xff" * 65536)
    with pytest.raises(ValueError, match="trusts its guests' memory"):
        limit.step()
    a.close()
    for call in (load.step, load.run, lambda: load.latency(0, 0)):
        with pytest.raises(ValueError, match="closed"):
            call()
    b.close()


def test_a_ring_whose_memory_is_gone_is_not_asked_where_it_stood() -> None:
    device = guest()
    assert device.base_left(1) == 0
    with pytest.raises(ValueError, match=r"this device has 0\.\.1"):
        device.base_left(2)
    device.close()
    with pytest.raises(ValueError, match="it is closed"):
        device.base_left(1)
