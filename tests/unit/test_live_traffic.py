"""Control under traffic: two guests, real sockets, real ports, a running worker, and messages that change what runs."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.vhostuser.service import VhostUserService
from tests.driver import Memory, Piece, Region, SplitQueue
from tests.frontend import (
    F_PROTOCOL_FEATURES,
    FEATURES,
    NET_F_MRG_RXBUF,
    PROTOCOL_F_STATUS,
    PROTOCOL_FEATURES,
    VRING_STATE,
    Frontend,
    Guest,
    Request,
    single_region,
)
from tests.unit.service_rig import until
from tests.unit.session_bench import open_fds


class Switch:
    """Two vhost-user ports joined by one worker."""

    def __init__(self, directory: Any) -> None:
        door = Door()
        self.paths = [directory / "a.sock", directory / "b.sock"]
        self.ports = [VirtioPort(name, door) for name in "ab"]
        self.worker = Worker(door)
        for ingress, egress in ((0, 1), (1, 0)):
            self.worker.add_wire(self.ports[ingress], self.ports[egress], hold=True, hold_timeout_ms=100)
        self.services = [VhostUserService(str(path), port) for path, port in zip(self.paths, self.ports, strict=True)]
        for service in self.services:
            service.open()
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()
        for service in self.services:
            service.start()

    def close(self) -> None:
        self.worker.stop()
        self.thread.join()
        for service in self.services:
            service.stop(MAX_WAIT)
            assert service.defects == 0
        for port in self.ports:
            port.close()

    def ring(self, port: int, index: int) -> dict[str, Any]:
        about: dict[str, Any] = self.services[port].describe()["rings"][index]
        return about


@pytest.fixture
def switch() -> Iterator[Switch]:
    with short_dir() as directory:
        switch = Switch(directory)
        gc.collect()  # a worker of an earlier test keeps its file descriptors until it is collected
        before = open_fds()
        try:
            yield switch
            until(lambda: all(service.describe()["state"] == "listening" for service in switch.services))
            assert open_fds() == before
        finally:
            switch.close()


@pytest.fixture
def guests(switch: Switch) -> Iterator[list[Guest]]:
    guests = [Guest.boot(path, receive_buffers=64, name=path.stem) for path in switch.paths]
    yield guests
    for guest in guests:
        guest.close()
    until(lambda: all(service.describe()["state"] == "listening" for service in switch.services))


def frame(n: int, size: int = 100) -> bytes:
    return (n.to_bytes(4, "big") * (size // 4 + 1))[:size]


def exchange(sender: Guest, receiver: Guest, n: int = 20) -> None:
    """n frames, each received once, whole and in order."""
    for i in range(n):
        sender.net.send(frame(i))
    assert [receiver.net.receive() for _ in range(n)] == [frame(i) for i in range(n)]


def both_ways(guests: list[Guest]) -> None:
    exchange(guests[0], guests[1])
    exchange(guests[1], guests[0])


def drained(guest: Guest) -> None:
    """The device has taken all the guest sent."""
    queue = guest.transmitq
    until(lambda: queue.used_index == guest.memory.load_u16(queue.driver_area + 2))


def written(fd: int) -> None:
    assert select.select([fd], [], [], MAX_WAIT)[0]
    assert os.eventfd_read(fd) == 1


def test_frames_go_both_ways(guests: list[Guest]) -> None:
    both_ways(guests)


@pytest.mark.parametrize("features", [FEATURES, FEATURES | NET_F_MRG_RXBUF, NET_F_MRG_RXBUF, 0])
def test_frames_go_both_ways_whatever_was_negotiated(switch: Switch, features: int) -> None:
    guests = [Guest.boot(path, features=features, receive_buffers=64) for path in switch.paths]
    assert bool(guests[0].frontend.features & F_PROTOCOL_FEATURES) == bool(features & F_PROTOCOL_FEATURES)
    for guest in guests:  # not every one has acks: an answer comes after all that was before
        guest.frontend.ask_u64(Request.GET_FEATURES)
    both_ways(guests)
    for guest in guests:
        guest.close()


def test_a_ring_stopped_and_started_goes_on_where_it_was(guests: list[Guest]) -> None:
    both_ways(guests)
    for guest in guests:
        for index in (0, 1):
            queue, calls = guest.queues[index], guest.calls[index]
            base = guest.frontend.get_vring_base(index)
            assert base == queue.used_index
            queue.base = base
            guest.frontend.set_up_queue(index, queue, kick=guest.kicks[index], call=calls)
    both_ways(guests)


def test_a_reboot_sets_the_rings_up_anew_on_the_same_connection(guests: list[Guest]) -> None:
    both_ways(guests)
    for index in (0, 1):
        guests[0].restart_queue(index, start=0)
    guests[0].net.receive_buffers.clear()
    guests[0].net.post(64)
    both_ways(guests)


@pytest.mark.parametrize("index", [0, 1], ids=["receiveq", "transmitq"])
def test_a_queue_reset_by_its_driver_comes_back_elsewhere_and_smaller_while_the_other_goes_on(
    switch: Switch, index: int
) -> None:
    # Virtio 1.2, section 2.6.1, where a front-end passes it on: stopped, and set up again when it is enabled again.
    guests = [Guest.boot(path, features=FEATURES, receive_buffers=64) for path in switch.paths]
    resets, other = guests
    both_ways(guests)

    resets.frontend.get_vring_base(index)
    if index:
        exchange(other, resets)
    else:
        exchange(resets, other)
    fresh = SplitQueue(resets.memory, 64, start=0)
    resets.frontend.set_up_queue(index, fresh, kick=resets.kicks[index], call=resets.calls[index])
    if index:
        resets.net.transmitq = fresh
        resets.net._transmit_buffers.clear()
    else:
        resets.net.receiveq = fresh
        resets.net.receive_buffers.clear()
        resets.net.post(64)
    resets.kick()

    both_ways(guests)
    assert switch.ring(0, index)["size"] == 64
    for guest in guests:
        guest.close()


def test_a_guest_whose_rings_are_stopped_is_neither_written_nor_notified(guests: list[Guest]) -> None:
    guest = guests[0]
    for index in (0, 1):
        guest.frontend.get_vring_base(index)
    for call in guest.calls:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(call)
    before = guest.memory.read(guest.memory.regions[0].guest_addr, 1 << 20)
    for i in range(20):
        guests[1].net.send(frame(i))
    drained(guests[1])
    assert guest.memory.read(guest.memory.regions[0].guest_addr, 1 << 20) == before
    for call in guest.calls:
        with pytest.raises(BlockingIOError):
            os.eventfd_read(call)
    assert guest.frontend.ask_u64(Request.GET_QUEUE_NUM) == 1


def test_a_disabled_transmitq_is_drained_and_a_disabled_receiveq_gets_nothing(guests: list[Guest]) -> None:
    for index in (0, 1):
        guests[0].frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 0))
    for i in range(20):
        guests[0].net.send(frame(i))
        guests[1].net.send(frame(i))
    drained(guests[0])
    drained(guests[1])
    assert guests[0].net.receive_all() == []
    assert guests[1].net.receive_all() == []
    for index in (0, 1):
        guests[0].frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 1))
    both_ways(guests)


def test_the_same_memory_mapped_anew_under_traffic_loses_nothing(guests: list[Guest]) -> None:
    guest = guests[0]
    for round_ in range(10):
        for i in range(20):
            guests[1].net.send(frame(100 * round_ + i))
        guest.frontend.set_mem_table(guest.memory.regions)
        for i in range(20):
            guest.net.send(frame(100 * round_ + i))
        expected = [frame(100 * round_ + i) for i in range(20)]
        assert [guest.net.receive() for _ in range(20)] == expected
        assert [guests[1].net.receive() for _ in range(20)] == expected


def test_a_table_that_is_refused_under_traffic_changes_nothing(guests: list[Guest]) -> None:
    guest = guests[0]
    both_ways(guests)
    region = guest.memory.regions[0]
    guest.frontend.send(Request.SET_MEM_TABLE, b"\2" + bytes(7) + bytes(64), [region.fd, region.fd], need_reply=True)
    assert guest.frontend.receive().payload != bytes(8)
    both_ways(guests)


def test_memory_removed_and_added_again_lets_the_rings_go_on(switch: Switch, guests: list[Guest]) -> None:
    guest = guests[0]
    both_ways(guests)
    region = single_region(guest.memory.regions[0])
    guest.frontend.tell(Request.REM_MEM_REG, region)
    assert switch.ring(0, 0)["broken"]
    assert os.eventfd_read(guest.errs[0]) == 1
    guest.frontend.tell(Request.ADD_MEM_REG, region, [guest.memory.regions[0].fd])
    assert not switch.ring(0, 0)["broken"]
    both_ways(guests)


def test_a_broken_ring_writes_its_err_fd_and_recovers_when_set_up_again(switch: Switch, guests: list[Guest]) -> None:
    guest = guests[0]
    both_ways(guests)
    guest.transmitq.make_available(guest.transmitq.chain([Piece(0xDEAD_BEEF_0000, 64)]))
    until(lambda: switch.ring(0, 1)["broken"])
    written(guest.errs[1])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(guest.errs[0])
    exchange(guests[1], guest)  # its other ring runs on
    guest.restart_queue(1, start=0)
    both_ways(guests)


def test_memory_cut_short_ends_that_connection_and_no_other(switch: Switch, guests: list[Guest]) -> None:
    both_ways(guests)
    guests[0].memory.regions[0].truncate(4096)
    with contextlib.suppress(Exception):
        guests[1].net.send(frame(1))
    assert guests[0].frontend.wait_closed()
    assert guests[1].frontend.ask_u64(Request.GET_QUEUE_NUM) == 1
    fresh = Guest.boot(switch.paths[0], receive_buffers=64)
    exchange(fresh, guests[1], 1)
    fresh.close()


def test_a_guest_that_dies_and_comes_back_finds_the_other_one_waiting(switch: Switch, guests: list[Guest]) -> None:
    both_ways(guests)
    for _ in range(5):
        guests[0].close()
        guests[0] = Guest.boot(switch.paths[0], receive_buffers=64)
        both_ways(guests)


def test_a_device_reset_by_its_driver_is_a_fresh_start_on_the_same_connection(switch: Switch) -> None:
    protocol = PROTOCOL_FEATURES | PROTOCOL_F_STATUS
    guests = [Guest.boot(path, receive_buffers=64, protocol_features=protocol) for path in switch.paths]
    both_ways(guests)
    guest = guests[0]
    for index in (0, 1):
        guest.frontend.get_vring_base(index)
    guest.frontend.tell(Request.SET_STATUS, bytes(8))
    guest.frontend.tell(Request.SET_FEATURES, guest.frontend.features.to_bytes(8, "little"))
    for index in (0, 1):
        guest.restart_queue(index, start=0)
    guest.net.receive_buffers.clear()
    guest.net.post(64)
    both_ways(guests)
    for each in guests:
        each.close()


def test_a_ring_outside_of_the_memory_is_refused_with_the_line_that_helps(
    switch: Switch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory([Region(0x10000, 1 << 20)])
    frontend = Frontend.connect(switch.paths[0])
    with caplog.at_level("INFO", "fastvhost"):
        frontend.negotiate(protocol_features=0)
        frontend.set_mem_table(memory.regions)
        frontend.send(Request.SET_VRING_NUM, VRING_STATE.pack(0, 256))
        frontend.send(Request.SET_VRING_ADDR, bytes(40))
        frontend.send(Request.SET_VRING_KICK, (0x100).to_bytes(8, "little"))
        assert frontend.wait_closed()
        until(lambda: any("ring 0 lies in no shared memory region" in text for text in caplog.messages))
    frontend.close()
    memory.close()
