"""Ring states, as a session drives its port: configured, live, started, enabled, broken, out of memory."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.vhostuser.message import MemoryTable, Request, VringFd
from tests.unit.session_bench import LEGACY, MODERN, OTHER_REGION, REGION, Bench, single


def test_a_ring_goes_live_with_its_kick_fd_and_is_started_by_the_first_kick(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0, size=128, base=65530)
    assert bench.port.of("start_queue") == []
    kick = bench.eventfd()
    bench.kick_with(0, kick)
    ((index, setup),) = bench.port.of("start_queue")
    assert index == 0
    assert setup.kick_fd >= 0
    assert setup._replace(kick_fd=-1) == QueueSetup(
        size=128,
        desc_user_addr=REGION.user_addr,
        avail_user_addr=REGION.user_addr + 0x4000,
        used_user_addr=REGION.user_addr + 0x8000,
        base=65530,
        enabled=False,
        kicked=False,
    )
    bench.serve()
    assert bench.port.of("kick_queue") == []
    os.eventfd_write(kick, 1)
    bench.serve()
    assert bench.port.of("kick_queue") == [(0,)]


def test_a_kick_that_came_before_the_ring_counts(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0)
    bench.kick_with(0, bench.eventfd(value=1))
    bench.serve()
    assert bench.port.of("kick_queue") == [(0,)]


def test_without_a_kick_fd_a_ring_is_started_at_once(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0)
    bench.kick_with(0)
    assert bench.port.live[0].kicked


def test_a_started_ring_is_kicked_no_more_and_its_kick_fd_keeps_its_count(bench: Bench) -> None:
    kick = bench.run(0)
    os.eventfd_write(kick, 1)
    bench.serve()
    assert bench.port.of("kick_queue") == [(0,)]
    assert os.eventfd_read(kick) == 2


def test_a_ring_whose_buffers_were_found_is_still_told_of_its_first_kick(bench: Bench) -> None:
    """A worker may sleep only where the driver is known to kick."""
    bench.negotiate()
    bench.share()
    bench.configure(0)
    kick = bench.eventfd()
    bench.kick_with(0, kick)
    bench.port.happen("started", 0)
    bench.serve()
    assert bench.port.of("kick_queue") == []
    os.eventfd_write(kick, 1)
    bench.serve()
    assert bench.port.of("kick_queue") == [(0,)]


@pytest.mark.parametrize("last", ["features", "memory", "size", "addresses"])
def test_a_ring_waits_for_what_is_still_missing_whatever_comes_last(bench: Bench, last: str) -> None:
    steps = {
        "features": bench.negotiate,
        "memory": bench.share,
        "size": lambda: bench.send(Request.SET_VRING_NUM, VringState(0, 256)),
        "addresses": lambda: bench.send(Request.SET_VRING_ADDR, bench.addresses(0)),
    }
    for name, step in steps.items():
        if name != last:
            step()
    bench.kick_with(0, bench.eventfd())
    assert bench.port.of("start_queue") == []
    steps[last]()
    assert [call[0] for call in bench.port.of("start_queue")] == [0]


def test_with_protocol_features_a_ring_starts_disabled(bench: Bench) -> None:
    bench.negotiate(MODERN)
    bench.share()
    bench.configure(0)
    bench.kick_with(0)
    assert not bench.port.live[0].enabled
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    assert bench.port.of("set_enabled") == [(0, True)]
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 0))
    assert bench.port.of("set_enabled") == [(0, True), (0, False)]


def test_without_protocol_features_a_ring_starts_enabled(bench: Bench) -> None:
    bench.negotiate(LEGACY)
    bench.share()
    bench.configure(0)
    bench.kick_with(0)
    assert bench.port.live[0].enabled


def test_enabled_before_features_stays_enabled_when_they_come(bench: Bench) -> None:
    # QEMU enables its first queue pair when the device is made, long before the driver acks anything.
    bench.send(Request.SET_VRING_ENABLE, VringState(0, 1))
    bench.negotiate(MODERN)
    bench.share()
    bench.configure(0)
    bench.kick_with(0)
    assert bench.port.live[0].enabled


def test_enabled_is_kept_while_a_ring_is_stopped(bench: Bench) -> None:
    bench.run(0)
    bench.ask(Request.GET_VRING_BASE, VringState(0, 0))
    bench.configure(0)
    bench.kick_with(0)
    assert bench.port.live[0].enabled


def test_enable_is_zero_or_one(bench: Bench) -> None:
    bench.negotiate()
    assert bench.ack(Request.SET_VRING_ENABLE, VringState(0, 2)) == 1


def test_get_vring_base_stops_the_ring_and_tells_where(bench: Bench) -> None:
    bench.run(0, base=65535)
    bench.port.next_avail[0] = 3
    assert VringState.decode(bench.ask(Request.GET_VRING_BASE, VringState(0, 0))) == VringState(0, 3)
    assert bench.port.of("stop_queue") == [(0,)]


def test_get_vring_base_of_a_ring_that_never_ran_gives_back_what_was_set(bench: Bench) -> None:
    bench.negotiate()
    bench.send(Request.SET_VRING_BASE, VringState(1, 77))
    assert VringState.decode(bench.ask(Request.GET_VRING_BASE, VringState(1, 0))) == VringState(1, 77)
    assert bench.port.of("stop_queue") == []


def test_a_stopped_ring_starts_again_only_by_another_kick_message(bench: Bench) -> None:
    kick = bench.run(0)
    bench.port.next_avail[0] = 9
    bench.ask(Request.GET_VRING_BASE, VringState(0, 0))
    os.eventfd_write(kick, 1)
    bench.configure(0, base=9)
    assert bench.port.live == {}
    bench.kick_with(0, kick)
    assert bench.port.live[0].base == 9


def test_a_stopped_ring_without_a_new_base_goes_on_where_it_was(bench: Bench) -> None:
    bench.run(0)
    bench.port.next_avail[0] = 9
    bench.ask(Request.GET_VRING_BASE, VringState(0, 0))
    bench.kick_with(0)
    assert bench.port.live[0].base == 9


def test_call_and_err_outlive_a_stop_and_kick_does_not(bench: Bench) -> None:
    bench.run(0)
    call, err = bench.eventfd(), bench.eventfd()
    bench.send(Request.SET_VRING_CALL, VringFd(0, False), [call])
    bench.send(Request.SET_VRING_ERR, VringFd(0, False), [err])
    bench.ask(Request.GET_VRING_BASE, VringState(0, 0))
    ring = bench.session.rings[0]
    assert (ring.kick >= 0, ring.call >= 0, ring.err >= 0) == (False, True, True)


# Settings


@pytest.mark.parametrize("size", [0, 3, 255, 32769, 65536, 2**32 - 1])
def test_a_size_no_queue_has_is_refused(bench: Bench, size: int) -> None:
    bench.negotiate()
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, size)) == 1


@pytest.mark.parametrize("size", [1, 2, 32768])
def test_any_power_of_two_up_to_32768_is_a_size(bench: Bench, size: int) -> None:
    bench.negotiate()
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, size)) == 0


@pytest.mark.parametrize("base", [65536, 2**31, 2**32 - 1])
def test_a_base_beyond_sixteen_bits_is_refused(bench: Bench, base: int) -> None:
    bench.negotiate()
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, base)) == 1


def test_a_packed_ring_has_any_size_and_a_base_of_both_indices(bench: Bench) -> None:
    bench.negotiate(MODERN | 1 << 34)
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, 255)) == 0
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, 32769)) == 1
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, 1 << 31 | 7 << 16 | 1 << 15 | 7)) == 0


def test_a_packed_ring_starts_with_its_wrap_counters_at_one_unless_told_otherwise(bench: Bench) -> None:
    bench.negotiate(MODERN | 1 << 34)
    bench.share()
    bench.send(Request.SET_VRING_NUM, VringState(0, 100))
    bench.send(Request.SET_VRING_ADDR, bench.addresses(0))
    bench.kick_with(0, bench.eventfd())
    assert bench.port.live[0].base == 1 << 31 | 1 << 15


@pytest.mark.parametrize("index", [2, 255, 0x10000, 2**32 - 1])
def test_a_ring_that_does_not_exist_is_refused_in_every_message(bench: Bench, index: int) -> None:
    bench.negotiate()
    for request in (Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.SET_VRING_ENABLE):
        assert bench.ack(request, VringState(index, 1)) == 1
    assert bench.ack(Request.SET_VRING_ADDR, VringAddr(index, 0, 0, 0, 0, 0)) == 1
    for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        assert bench.ack(request, U64(index), [bench.eventfd()]) == 1


def test_a_live_ring_takes_only_what_changes_nothing(bench: Bench) -> None:
    bench.run(0)
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, 256)) == 0
    assert bench.ack(Request.SET_VRING_NUM, VringState(0, 512)) == 1
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, 0)) == 0
    assert bench.ack(Request.SET_VRING_BASE, VringState(0, 1)) == 1
    assert bench.ack(Request.SET_VRING_ADDR, bench.addresses(0)) == 0
    assert bench.ack(Request.SET_VRING_ADDR, bench.addresses(0, flags=1)) == 0  # the log's flag may come and go
    other = VringAddr(0, 0, 0, 0, 0, 0)
    assert bench.ack(Request.SET_VRING_ADDR, other) == 1
    assert len(bench.port.of("start_queue")) == 1
    assert bench.session.rings[0].size == 256


def test_a_ring_the_port_refuses_is_refused_and_may_be_tried_again(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0)
    bench.port.refusal = "ring 0 lies in no shared memory region"
    assert bench.ack(Request.SET_VRING_KICK, VringFd(0, False), [bench.eventfd()]) == 1
    bench.port.refusal = ""
    assert bench.ack(Request.SET_VRING_ADDR, bench.addresses(0)) == 0
    assert bench.port.live == {}
    assert bench.ack(Request.SET_VRING_KICK, VringFd(0, False), [bench.eventfd()]) == 0
    assert 0 in bench.port.live


# Call and err


def test_the_call_fd_is_handed_over_and_written_once_when_the_ring_goes_live(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0)
    call = bench.eventfd()
    bench.send(Request.SET_VRING_CALL, VringFd(0, False), [call])
    with pytest.raises(BlockingIOError):  # a suspended device sends no notification
        os.eventfd_read(call)
    bench.kick_with(0)
    assert bench.port.live[0].call_fd == bench.session.rings[0].call
    assert os.eventfd_read(call) == 1


def test_another_call_fd_reaches_the_port_before_the_old_one_is_closed(bench: Bench) -> None:
    bench.run(0)
    first, second = bench.eventfd(), bench.eventfd()
    bench.send(Request.SET_VRING_CALL, VringFd(0, False), [first])
    old = bench.session.rings[0].call
    set_call_fd = bench.port.set_call_fd

    def watching(index: int, fd: int) -> None:
        os.fstat(old)
        set_call_fd(index, fd)

    bench.port.set_call_fd = watching  # type: ignore[method-assign]
    bench.send(Request.SET_VRING_CALL, VringFd(0, False), [second])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(old)
    assert bench.port.of("set_call_fd")[-1] == (0, bench.session.rings[0].call)
    assert os.eventfd_read(second) == 1
    bench.port.set_call_fd = set_call_fd  # type: ignore[method-assign]
    bench.send(Request.SET_VRING_CALL, VringFd(0, True))
    assert bench.port.of("set_call_fd")[-1] == (0, -1)


def test_a_blocking_call_fd_at_its_maximum_holds_up_nothing(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0)
    call = bench.eventfd(flags=0)
    os.eventfd_write(call, 2**64 - 2)
    bench.send(Request.SET_VRING_CALL, VringFd(0, False), [call])
    bench.kick_with(0)
    assert 0 in bench.port.live
    assert not os.get_blocking(call)


def test_the_err_fd_is_written_when_its_ring_breaks_and_not_another_ring(bench: Bench) -> None:
    bench.run(0)
    bench.run(1)
    errs = [bench.eventfd(), bench.eventfd()]
    for index, err in enumerate(errs):
        bench.send(Request.SET_VRING_ERR, VringFd(index, False), [err])
    bench.port.happen("broken", 1, "a descriptor loop")
    bench.serve()
    assert os.eventfd_read(errs[1]) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(errs[0])
    assert not bench.ended


def test_a_ring_that_breaks_just_before_it_is_stopped_says_so_before_it_starts_again(bench: Bench) -> None:
    kick = bench.run(1)
    err = bench.eventfd()
    bench.send(Request.SET_VRING_ERR, VringFd(1, False), [err])
    bench.port.news.append(("broken", 1, "a descriptor loop"))  # a worker found it, and no control thread knows yet
    bench.ask(Request.GET_VRING_BASE, VringState(1, 0))
    bench.kick_with(1, kick)
    assert os.eventfd_read(err) == 1
    assert bench.session.rings[1].broken == ""
    assert 1 in bench.port.live


def test_a_broken_ring_recovers_by_being_stopped_and_set_up_again(bench: Bench) -> None:
    kick = bench.run(1)
    bench.port.happen("broken", 1, "a descriptor loop")
    bench.serve()
    bench.ask(Request.GET_VRING_BASE, VringState(1, 0))
    assert bench.session.rings[1].broken == ""
    bench.configure(1)
    bench.kick_with(1, kick)
    assert 1 in bench.port.live


def test_a_broken_ring_recovers_by_another_kick_message_too(bench: Bench) -> None:
    kick = bench.run(1)
    bench.port.happen("broken", 1, "a descriptor loop")
    bench.serve()
    bench.port.next_avail[1] = 5
    bench.kick_with(1, kick)
    assert [name for name in bench.port.names() if name in ("start_queue", "stop_queue")] == [
        "start_queue",
        "stop_queue",
        "start_queue",
    ]
    assert bench.port.live[1].base == 5
    assert bench.session.rings[1].running


@pytest.mark.parametrize("trouble", ["broken", "lost"])
def test_a_ring_in_trouble_keeps_its_places_until_it_is_stopped(bench: Bench, trouble: str) -> None:
    bench.run(1)
    if trouble == "broken":
        bench.port.happen("broken", 1, "a descriptor loop")
        bench.serve()
    else:
        bench.port.lost = (1,)
        assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 0
    assert not bench.session.rings[1].running
    others = (
        (Request.SET_VRING_NUM, VringState(1, 512)),
        (Request.SET_VRING_BASE, VringState(1, 7)),
        (Request.SET_VRING_ADDR, replace(bench.addresses(0), index=1)),
    )
    for request, payload in others:
        assert bench.ack(request, payload) == 1
    bench.ask(Request.GET_VRING_BASE, VringState(1, 0))
    for request, payload in others:
        assert bench.ack(request, payload) == 0


def test_a_live_ring_can_get_another_kick_fd(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0)
    first, second = bench.eventfd(), bench.eventfd()
    bench.kick_with(0, first)
    bench.kick_with(0, second)
    os.eventfd_write(first, 1)
    bench.serve()
    assert bench.port.of("kick_queue") == []
    os.eventfd_write(second, 1)
    bench.serve()
    assert bench.port.of("kick_queue") == [(0,)]
    assert len(bench.port.of("start_queue")) == 1


# Memory


def test_a_ring_whose_memory_goes_away_waits_and_goes_on_when_it_is_back(bench: Bench) -> None:
    bench.run(0)
    err = bench.eventfd()
    bench.send(Request.SET_VRING_ERR, VringFd(0, False), [err])
    bench.port.lost = (0,)
    assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 0
    assert os.eventfd_read(err) == 1
    assert not bench.session.rings[0].running
    bench.port.next_avail[0] = 12
    assert bench.ack(Request.ADD_MEM_REG, single(OTHER_REGION), [bench.memfd()]) == 0
    assert bench.port.live[0].base == 12
    assert bench.port.live[0].kicked
    assert bench.session.rings[0].running


def test_a_ring_waits_on_while_what_comes_is_not_its_memory(bench: Bench) -> None:
    bench.run(0)
    bench.port.lost = (0,)
    assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 0
    bench.port.refusal = "ring 0 lies in no shared memory region"
    assert bench.ack(Request.ADD_MEM_REG, single(OTHER_REGION), [bench.memfd()]) == 0
    assert not bench.session.rings[0].running
    bench.port.refusal = ""
    assert bench.ack(Request.ADD_MEM_REG, single(REGION), [bench.memfd()]) == 0
    assert bench.session.rings[0].running


def test_a_lost_ring_can_be_stopped_and_set_up_elsewhere(bench: Bench) -> None:
    kick = bench.run(0)
    bench.port.lost = (0,)
    bench.send(Request.SET_MEM_TABLE, MemoryTable(()))
    bench.port.next_avail[0] = 4
    assert VringState.decode(bench.ask(Request.GET_VRING_BASE, VringState(0, 0))).num == 4
    bench.share()
    assert bench.port.live == {}
    bench.kick_with(0, kick)
    assert bench.session.rings[0].running


def test_another_table_leaves_live_rings_to_the_port(bench: Bench) -> None:
    bench.run(0)
    bench.share(REGION, SharedRegion(OTHER_REGION.guest_addr, 4096, 0, 0))
    assert len(bench.port.of("start_queue")) == 1
    assert bench.port.of("stop_queue") == []


def test_a_pending_ring_refused_when_memory_comes_is_told_by_err_and_the_table_stands(bench: Bench) -> None:
    bench.negotiate()
    err = bench.eventfd()
    bench.send(Request.SET_VRING_ERR, VringFd(0, False), [err])
    bench.configure(0)
    bench.kick_with(0, bench.eventfd())
    bench.port.refusal = "ring 0 lies in no shared memory region"
    assert bench.ack(Request.SET_MEM_TABLE, MemoryTable((REGION,)), [bench.memfd()]) == 0
    assert os.eventfd_read(err) == 1
    assert bench.session.memory.regions == (REGION,)
    assert not bench.ended
