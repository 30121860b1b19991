"""Negotiation, acknowledgements, memory, status: the answers of a session, and its calls of the port."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable

import pytest

from fastvhost.backend import features
from fastvhost.backend.payload import U64, SharedRegion, VringState
from fastvhost.vhostuser import protocol_features
from fastvhost.vhostuser.message import LogBase, MemoryTable, Payload, Request, SingleRegion, VringFd
from fastvhost.vhostuser.session import HANDLERS
from tests.unit.session_bench import LEGACY, MODERN, OTHER_REGION, REGION, Bench, open_fds, single


def test_every_request_has_a_row_and_every_row_a_request() -> None:
    assert set(HANDLERS) == set(Request)


# Negotiation


def test_offered_features_are_told(bench: Bench) -> None:
    assert bench.ask_u64(Request.GET_FEATURES) == protocol_features.offered_features(1)
    assert bench.ask_u64(Request.GET_PROTOCOL_FEATURES) == protocol_features.offered_protocol_features(1)


def test_protocol_features_can_be_set_before_features(bench: Bench) -> None:
    offered = protocol_features.offered_protocol_features(1)
    bench.send(Request.SET_PROTOCOL_FEATURES, U64(offered))
    assert bench.session.protocol_features == offered
    assert "set_features" not in bench.port.names()


def test_features_reach_the_port_when_they_are_acked(bench: Bench) -> None:
    bench.negotiate(MODERN)
    assert bench.port.of("set_features") == [(MODERN,)]


@pytest.mark.parametrize("bit", [10, 14, 22, 26, 33, 36, 47, 63])
def test_a_feature_not_offered_cannot_be_acked(bench: Bench, bit: int) -> None:
    bench.send(Request.SET_FEATURES, U64(MODERN | 1 << bit))
    assert "not offered" in bench.ended
    assert "set_features" not in bench.port.names()


@pytest.mark.parametrize("bit", [0, 1, 2, 5, 8, 12, 14, 21, 63])
def test_a_protocol_feature_not_offered_cannot_be_acked(bench: Bench, bit: int) -> None:
    bench.send(Request.SET_PROTOCOL_FEATURES, U64(1 << bit))
    assert "not offered" in bench.ended


def test_a_feature_that_the_port_withholds_is_neither_offered_nor_acked() -> None:
    bench = Bench(without=1 << features.F_RING_PACKED)
    assert bench.ask_u64(Request.GET_FEATURES) == protocol_features.offered_features(1) & ~(1 << features.F_RING_PACKED)
    bench.send(Request.SET_FEATURES, U64(MODERN | 1 << features.F_RING_PACKED))
    assert "RING_PACKED not offered" in bench.ended
    bench.close()


def test_features_the_port_refuses_are_refused(bench: Bench) -> None:
    bench.negotiate()
    bench.port.refusal = "a queue is live; stop it first"
    assert bench.ack(Request.SET_FEATURES, U64(LEGACY)) == 1
    assert bench.session.features == MODERN


def test_queue_pairs_are_told_and_mq_offered_with_the_control_queue_that_it_wants() -> None:
    bench = Bench(queue_pairs=4)
    assert bench.ask_u64(Request.GET_QUEUE_NUM) == 4
    offered = bench.ask_u64(Request.GET_FEATURES)
    assert features.has(offered, features.NET_F_MQ)
    assert features.has(offered, features.NET_F_CTRL_VQ)
    bench.close()


# Acknowledgements


def test_without_reply_ack_need_reply_is_not_answered(bench: Bench) -> None:
    bench.send(Request.SET_OWNER, need_reply=True)
    assert bench.reply() is None
    assert not bench.ended


def test_with_reply_ack_only_need_reply_is_answered(bench: Bench) -> None:
    bench.negotiate()
    assert bench.reply() is None
    assert bench.ack(Request.SET_OWNER) == 0


def test_the_message_that_acks_reply_ack_can_itself_be_acked(bench: Bench) -> None:
    assert bench.ack(Request.SET_PROTOCOL_FEATURES, U64(1 << protocol_features.PROTOCOL_F_REPLY_ACK)) == 0


def test_a_request_with_a_reply_of_its_own_never_gets_an_ack_too(bench: Bench) -> None:
    bench.negotiate()
    bench.ask(Request.GET_FEATURES, need_reply=True)
    bench.ask(Request.GET_VRING_BASE, VringState(0, 0), need_reply=True)


def test_a_refusal_without_need_reply_ends_the_connection(bench: Bench) -> None:
    bench.negotiate()
    bench.send(Request.NET_SET_MTU, U64(1))
    assert "MTU 1" in bench.ended


def test_a_refusal_with_need_reply_is_answered_and_the_session_goes_on(bench: Bench) -> None:
    bench.negotiate()
    assert bench.ack(Request.NET_SET_MTU, U64(1)) != 0
    assert bench.ack(Request.NET_SET_MTU, U64(1500)) == 0


def test_a_refused_request_with_a_reply_of_its_own_ends_the_connection(bench: Bench) -> None:
    bench.negotiate()
    bench.send(Request.GET_VRING_BASE, VringState(9, 0), need_reply=True)
    assert "ring 9" in bench.ended
    assert bench.reply() is None


@pytest.mark.parametrize("request_number", [0, 19, 21, 22, 23, 26, 35, 41, 44, 0xFFFFFFFF])
def test_a_request_nobody_offered_is_refused(bench: Bench, request_number: int) -> None:
    bench.negotiate()
    assert bench.ack(request_number, bytes(40)) == 1
    assert not bench.ended
    bench.send(request_number)
    assert "not a request" in bench.ended


@pytest.mark.parametrize("request_number", sorted(HANDLERS))
def test_a_payload_of_the_wrong_size_is_refused(bench: Bench, request_number: int) -> None:
    bench.negotiate()
    if HANDLERS[request_number].replies:
        bench.send(request_number, bytes(3))
        assert "refused" in bench.ended
    else:
        assert bench.ack(request_number, bytes(3)) == 1
        assert not bench.ended


@pytest.mark.parametrize("request_number", sorted(HANDLERS))
def test_surplus_file_descriptors_are_refused_and_closed(bench: Bench, request_number: int) -> None:
    # The fixture sees to "closed".
    row = HANDLERS[request_number]
    if row.most_fds < 8:
        fds = [bench.eventfd() for _ in range(row.most_fds + 1)]
        bench.send(request_number, bytes(row.payload.LEAST), fds)
        assert "file descriptor" in bench.ended


def test_the_log_messages_are_accepted_and_their_file_descriptors_closed(bench: Bench) -> None:
    bench.negotiate()
    for payload in (LogBase(b""), LogBase(bytes(8)), LogBase(bytes(16))):
        assert bench.ack(Request.SET_LOG_BASE, payload, [bench.memfd()]) == 0
    assert bench.ack(Request.SET_LOG_FD, b"", [bench.eventfd()]) == 0
    before = len(open_fds())
    bench.send(Request.SET_LOG_FD, b"", [bench.eventfd()])
    assert len(open_fds()) == before + 1  # the test's own
    assert bench.reply() is None


# Memory


def test_a_memory_table_reaches_the_port(bench: Bench) -> None:
    bench.negotiate()
    bench.share(REGION, OTHER_REGION)
    (table,) = bench.port.of("set_memory")[0]
    assert [mapping.guest_addr for mapping in table.mappings] == [REGION.guest_addr, OTHER_REGION.guest_addr]
    assert bench.session.memory.regions == (REGION, OTHER_REGION)


def test_another_table_takes_effect_before_the_old_mappings_close(bench: Bench) -> None:
    bench.negotiate()
    bench.share(REGION)
    (old,) = bench.port.of("set_memory")[0]
    set_memory = bench.port.set_memory

    def watching(table: object) -> tuple[int, ...]:
        assert not old.mappings[0].closed
        return set_memory(table)

    bench.port.set_memory = watching  # type: ignore[method-assign, assignment]
    bench.share(OTHER_REGION)
    bench.port.set_memory = set_memory  # type: ignore[method-assign]
    assert old.mappings[0].closed
    assert bench.session.memory.regions == (OTHER_REGION,)


@pytest.mark.parametrize(
    "regions",
    [
        pytest.param((SharedRegion(0, 666, 0, 0),), id="one that cannot be mapped"),
        pytest.param((OTHER_REGION, SharedRegion(0, 666, 0, 0)), id="the second of two"),
        pytest.param((REGION, REGION), id="two that overlap"),
    ],
)
def test_a_table_that_is_refused_leaves_the_old_one(bench: Bench, regions: tuple[SharedRegion, ...]) -> None:
    bench.negotiate()
    bench.share(REGION)
    (old,) = bench.port.of("set_memory")[0]
    assert bench.ack(Request.SET_MEM_TABLE, MemoryTable(regions), [bench.memfd() for _ in regions]) == 1
    assert len(bench.port.of("set_memory")) == 1
    assert not old.mappings[0].closed
    assert bench.session.memory.regions == (REGION,)


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (Request.SET_MEM_TABLE, MemoryTable((SharedRegion(0, 666, 0, 0),))),
        (Request.SET_MEM_TABLE, b"\1"),
        (Request.ADD_MEM_REG, SingleRegion(SharedRegion(0, 666, 0, 0))),
    ],
    ids=["table", "a table that is none", "region"],
)
def test_memory_that_was_refused_is_not_called_missing_afterwards(
    bench: Bench, request_: int, payload: Payload | bytes
) -> None:
    bench.negotiate()
    assert bench.ack(request_, payload, [bench.memfd()]) == 1
    bench.clock.now += 60
    bench.narrative.tick(bench.session.view)
    said = [line.text for line in bench.narrative.take()]
    assert " refused: " in said[-1], said


@pytest.mark.parametrize("fds", [0, 1, 3])
def test_a_table_with_another_number_of_file_descriptors_is_refused(bench: Bench, fds: int) -> None:
    bench.negotiate()
    table = MemoryTable((REGION, OTHER_REGION))
    assert bench.ack(Request.SET_MEM_TABLE, table, [bench.memfd() for _ in range(fds)]) == 1
    assert not bench.session.memory.regions


def test_an_empty_table_takes_the_memory_away(bench: Bench) -> None:
    bench.run(0)
    bench.port.lost = (0,)
    assert bench.ack(Request.SET_MEM_TABLE, MemoryTable(())) == 0
    assert bench.port.of("set_memory")[-1] == (None,)


def test_slots_are_added_and_removed_one_by_one(bench: Bench) -> None:
    bench.negotiate()
    assert bench.ask_u64(Request.GET_MAX_MEM_SLOTS) == 509
    assert bench.ack(Request.ADD_MEM_REG, single(REGION), [bench.memfd()]) == 0
    assert bench.ack(Request.ADD_MEM_REG, single(OTHER_REGION), [bench.memfd()]) == 0
    assert bench.session.memory.regions == (REGION, OTHER_REGION)
    assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 0
    assert bench.session.memory.regions == (OTHER_REGION,)


def test_a_region_is_removed_whatever_its_mmap_offset_and_a_stray_fd_closed(bench: Bench) -> None:
    bench.negotiate()
    bench.share(REGION)
    other_offset = SharedRegion(REGION.guest_addr, REGION.bytes, REGION.user_addr, 4096)
    assert bench.ack(Request.REM_MEM_REG, single(other_offset), [bench.memfd()]) == 0
    assert bench.session.memory.regions == ()


@pytest.mark.parametrize(
    "region",
    [
        SharedRegion(REGION.guest_addr + 1, REGION.bytes, REGION.user_addr, 0),
        SharedRegion(REGION.guest_addr, REGION.bytes + 1, REGION.user_addr, 0),
        SharedRegion(REGION.guest_addr, REGION.bytes, REGION.user_addr + 1, 0),
    ],
)
def test_a_region_that_differs_is_not_removed(bench: Bench, region: SharedRegion) -> None:
    bench.negotiate()
    bench.share(REGION)
    assert bench.ack(Request.REM_MEM_REG, single(region)) == 1
    assert bench.session.memory.regions == (REGION,)


def test_a_region_added_once_for_each_queue_pair_is_one_region_until_it_was_removed_as_often(bench: Bench) -> None:
    # As QEMU before 8.0 does.
    bench.negotiate()
    fd = bench.memfd()
    for _ in range(3):
        assert bench.ack(Request.ADD_MEM_REG, single(REGION), [fd]) == 0
    assert bench.session.memory.regions == (REGION,)
    for _ in range(2):
        assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 0
        assert bench.session.memory.regions == (REGION,)
    assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 0
    assert bench.session.memory.regions == ()
    assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 1


def test_the_same_region_over_another_file_is_refused(bench: Bench) -> None:
    bench.negotiate()
    assert bench.ack(Request.ADD_MEM_REG, single(REGION), [bench.memfd()]) == 0
    assert bench.ack(Request.ADD_MEM_REG, single(REGION), [bench.memfd()]) == 1
    assert bench.ack(Request.REM_MEM_REG, single(REGION)) == 0
    assert bench.session.memory.regions == ()


def test_a_region_to_add_needs_its_file_descriptor(bench: Bench) -> None:
    bench.negotiate()
    assert bench.ack(Request.ADD_MEM_REG, single(REGION)) == 1


def test_a_slot_beyond_the_last_is_refused(bench: Bench) -> None:
    bench.negotiate()
    fd = bench.memfd()
    for n in range(509):
        assert bench.ack(Request.ADD_MEM_REG, single(SharedRegion(n << 20, 1 << 20, n << 20, 0)), [fd]) == 0
    assert bench.ack(Request.ADD_MEM_REG, single(SharedRegion(509 << 20, 1 << 20, 509 << 20, 0)), [fd]) == 1
    assert len(bench.session.memory.regions) == 509


# The device


@pytest.mark.parametrize("mtu", [68, 1500, 65535])
def test_a_legal_mtu_is_kept(bench: Bench, mtu: int) -> None:
    bench.negotiate()
    assert bench.ack(Request.NET_SET_MTU, U64(mtu)) == 0
    assert bench.session.mtu == mtu


@pytest.mark.parametrize("mtu", [0, 67, 65536, 2**64 - 1])
def test_an_mtu_no_device_has_is_refused(bench: Bench, mtu: int) -> None:
    bench.negotiate()
    assert bench.ack(Request.NET_SET_MTU, U64(mtu)) == 1
    assert bench.session.mtu == 0


def test_the_device_status_is_kept(bench: Bench) -> None:
    bench.negotiate()
    assert bench.ask_u64(Request.GET_STATUS) == 0
    assert bench.ack(Request.SET_STATUS, U64(0xF)) == 0
    assert bench.ask_u64(Request.GET_STATUS) == 0xF
    assert bench.ack(Request.SET_STATUS, U64(0x100)) == 1


def test_status_zero_stops_the_rings_and_forgets_the_features_but_not_memory_nor_enabled(bench: Bench) -> None:
    bench.run(0)
    bench.send(Request.SET_STATUS, U64(0))
    assert bench.port.names().count("stop_queue") == 1
    assert bench.session.features is None
    assert bench.session.memory.regions == (REGION,)
    assert bench.session.rings[0].enabled
    bench.run(0)
    assert bench.port.live[0].enabled


def test_the_base_of_a_ring_can_still_be_asked_for_after_status_zero(bench: Bench) -> None:
    # QEMU before 8.1 pauses a guest in this order, and goes on from the answer.
    bench.run(0, base=40)
    bench.port.next_avail[0] = 99
    bench.send(Request.SET_STATUS, U64(0))
    assert VringState.decode(bench.ask(Request.GET_VRING_BASE, VringState(0, 0))) == VringState(0, 99)


def test_reset_device_stops_and_disables_the_rings_and_forgets_the_features(bench: Bench) -> None:
    bench.run(0)
    bench.send(Request.SET_STATUS, U64(0xF))
    assert bench.ack(Request.RESET_DEVICE) == 0
    assert bench.port.live == {}
    assert not bench.session.rings[0].enabled
    assert bench.session.features is None
    assert bench.ask_u64(Request.GET_STATUS) == 0
    assert bench.session.memory.regions == (REGION,)


def test_reset_owner_only_disables_the_rings(bench: Bench) -> None:
    bench.run(0)
    bench.send(Request.RESET_OWNER)
    assert bench.port.of("set_enabled")[-1] == (0, False)
    assert 0 in bench.port.live
    assert bench.session.features == MODERN


# The end


def test_the_end_of_a_session_leaves_nothing_on_the_port(bench: Bench) -> None:
    bench.run(0)
    bench.run(1)
    bench.connection.close()
    assert bench.port.live == {}
    assert bench.port.of("set_memory")[-1] == (None,)
    assert bench.port.of("set_link") == [(True,), (False,)]


def test_memory_that_vanished_ends_the_connection(bench: Bench) -> None:
    bench.run(0)
    bench.port.happen("faulted", -1, "the file of region 0 became shorter")
    bench.serve()
    assert bench.ended == "the file of region 0 became shorter"


def test_half_a_message_and_silence_ends_the_connection_and_holds_up_no_kick(bench: Bench) -> None:
    bench.negotiate()
    bench.share()
    bench.configure(0)
    kick = bench.eventfd()
    bench.kick_with(0, kick)
    bench.peer.send(struct.pack("=IIII", Request.SET_FEATURES, 1, 8, 0))
    bench.serve()
    os.eventfd_write(kick, 1)
    bench.serve()
    assert bench.port.of("kick_queue") == [(0,)]
    assert not bench.ended
    bench.clock.now += 1.0
    os.eventfd_write(bench.port.attention_fd, 1)
    bench.serve()
    assert "SET_FEATURES was begun" in bench.ended


@pytest.mark.parametrize("what", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_only_eventfds_are_taken_for_a_ring(bench: Bench, what: Request) -> None:
    bench.negotiate()
    read_end, write_end = os.pipe()
    for fd in (bench.memfd(), read_end, write_end):
        assert bench.ack(what, VringFd(0, False), [fd]) == 1
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("what", [Request.SET_VRING_CALL, Request.SET_VRING_ERR, Request.SET_VRING_KICK])
def test_a_unix_socket_is_taken_where_we_only_write(bench: Bench, what: Request) -> None:
    """User-mode Linux sends one end of a socketpair as its call descriptor."""
    bench.negotiate()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = bench.ack(what, VringFd(0, False), [theirs.fileno()])
    assert answer == (1 if what == Request.SET_VRING_KICK else 0)


@pytest.mark.parametrize("make", [socket.socket, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)])
def test_a_socket_that_is_not_of_af_unix_is_refused(bench: Bench, make: Callable[[], socket.socket]) -> None:
    bench.negotiate()
    with make() as other:
        assert bench.ack(Request.SET_VRING_CALL, VringFd(0, False), [other.fileno()]) == 1


@pytest.mark.parametrize("what", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_the_payload_and_the_file_descriptors_must_agree(bench: Bench, what: Request) -> None:
    bench.negotiate()
    assert bench.ack(what, VringFd(0, True), [bench.eventfd()]) == 1
    assert bench.ack(what, VringFd(0, False)) == 1
    assert bench.ack(what, VringFd(0, True)) == 0


def test_a_share_that_is_there_again_while_poll_is_prepared_is_not_slept_over(bench: Bench) -> None:
    """It was not there when the socket was registered, so nothing but the deadline tells of a message that waits."""
    bench.changes._messages.take(8192)
    bench.connection.register(select.poll())
    bench.clock.now += 10
    assert bench.connection.deadline is not None
    bench.connection.register(select.poll())
    assert bench.connection.deadline is None
