"""Messages as bytes: every kind of payload encoded and decoded, and bytes that are no message."""

from __future__ import annotations

import struct

import pytest

from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState
from fastvhost.vhostuser import message
from fastvhost.vhostuser.message import (
    LogBase,
    MalformedError,
    MemoryTable,
    Nothing,
    Request,
    SingleRegion,
    VringFd,
    decode_header,
    decode_payload,
    encode_reply,
    encode_request,
)

TOP = 2**64 - 1
REGIONS = tuple(SharedRegion(n << 30, 1 << 30, TOP - n, n * 4096) for n in range(8))

SAMPLES = [
    Nothing(),
    U64(0),
    U64(TOP),
    VringFd(255, False),
    VringFd(0, True),
    VringState(2**32 - 1, 2**32 - 1),
    VringAddr(1, 1, 2, 3, 4, TOP),
    SingleRegion(REGIONS[1]),
    MemoryTable(()),
    MemoryTable(REGIONS[:1]),
    MemoryTable(REGIONS),
    LogBase(b""),
    LogBase(bytes(16)),
]


@pytest.mark.parametrize("payload", SAMPLES, ids=str)
def test_a_payload_survives_the_way_there_and_back(payload: message.AnyPayload) -> None:
    assert decode_payload(type(payload), payload.encode()) == payload


@pytest.mark.parametrize("payload", SAMPLES, ids=str)
def test_a_payload_one_byte_short_or_long_is_malformed(payload: message.AnyPayload) -> None:
    data = payload.encode()
    if isinstance(payload, MemoryTable) and len(payload.regions) < 8:
        # Room for all eight may be sent whatever the count is, so only missing bytes can be told.
        short = MemoryTable((*payload.regions, REGIONS[7])).encode()[:-1]
        with pytest.raises(MalformedError, match="regions announced"):
            decode_payload(MemoryTable, short)
        return
    with pytest.raises(MalformedError):
        decode_payload(type(payload), data + b"\0")
    if data:
        with pytest.raises(MalformedError):
            decode_payload(type(payload), data[:-1])


def test_the_bytes_are_those_of_the_specification() -> None:
    region = SharedRegion(1, 2, 3, 4)
    assert MemoryTable((region,)).encode() == struct.pack("=IIQQQQ", 1, 0, 1, 2, 3, 4)
    assert SingleRegion(region).encode() == struct.pack("=QQQQQ", 0, 1, 2, 3, 4)
    # index, flags, descriptor, used, available, log
    assert VringAddr(7, 1, 10, 20, 30, 40).encode() == struct.pack("=IIQQQQ", 7, 1, 10, 20, 30, 40)
    assert VringFd(3, True).encode() == struct.pack("=Q", 0x103)


def test_a_memory_table_may_have_room_for_regions_it_does_not_count() -> None:
    data = MemoryTable(REGIONS).encode()
    assert decode_payload(MemoryTable, struct.pack("=II", 2, 0) + data[8:]) == MemoryTable(REGIONS[:2])


def test_nine_regions_in_a_table_are_malformed() -> None:
    with pytest.raises(MalformedError):
        decode_payload(MemoryTable, struct.pack("=II", 9, 0) + bytes(9 * 32))
    with pytest.raises(MalformedError, match="9 regions in one table"):
        decode_payload(MemoryTable, struct.pack("=II", 9, 0) + bytes(8 * 32))


def test_a_region_count_of_all_ones_is_malformed_not_a_long_loop() -> None:
    with pytest.raises(MalformedError, match="4294967295 regions"):
        decode_payload(MemoryTable, struct.pack("=II", 0xFFFFFFFF, 0) + bytes(32))


@pytest.mark.parametrize("value", [0x200, 0x10000, TOP])
def test_bits_beyond_ring_index_and_no_fd_flag_are_malformed(value: int) -> None:
    with pytest.raises(MalformedError, match="reserved bits"):
        decode_payload(VringFd, U64(value).encode())


def test_a_request_has_version_one_and_a_reply_says_that_it_is_one() -> None:
    assert encode_request(Request.SET_FEATURES, U64(5)) == struct.pack("=IIIQ", 2, 1, 8, 5)
    assert encode_request(Request.SET_OWNER, need_reply=True) == struct.pack("=III", 3, 0x9, 0)
    assert encode_reply(Request.GET_FEATURES, U64(5)) == struct.pack("=IIIQ", 1, 0x5, 8, 5)


def test_a_header_is_read_back() -> None:
    header = decode_header(encode_request(Request.SET_FEATURES, U64(5), need_reply=True)[:12])
    assert header == (2, 9, 8)
    assert header.need_reply
    assert not decode_header(struct.pack("=III", 2, 1, 8)).need_reply


@pytest.mark.parametrize("flags", [0, 2, 3])
def test_another_protocol_version_is_malformed(flags: int) -> None:
    with pytest.raises(MalformedError, match="version"):
        decode_header(struct.pack("=III", 1, flags, 0))


def test_a_request_with_the_reply_bit_is_malformed() -> None:
    with pytest.raises(MalformedError, match="reply bit"):
        decode_header(struct.pack("=III", 1, 1 | 4, 0))


def test_a_size_no_message_has_is_malformed_before_anything_is_read() -> None:
    assert decode_header(struct.pack("=III", 1, 1, message.MAX_PAYLOAD)).size == message.MAX_PAYLOAD
    for size in (message.MAX_PAYLOAD + 1, 0xFFFFFFFF):
        with pytest.raises(MalformedError, match="payload"):
            decode_header(struct.pack("=III", 1, 1, size))


def test_a_request_nobody_knows_still_has_a_header() -> None:
    assert decode_header(struct.pack("=III", 0xFFFFFFFF, 1, 0)).request == 0xFFFFFFFF
    assert message.request_name(23) == "request 23"
    assert message.request_name(5) == "SET_MEM_TABLE"
