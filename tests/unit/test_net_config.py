"""The configuration space of a port's device (mac=, mtu=, link, pairs), when it is offered, and what may be written."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastvhost.backend.features import F_VERSION_1, NET_F_MAC, NET_F_MTU, NET_F_STATUS, has, mask
from fastvhost.backend.payload import U64
from fastvhost.control import config, port_text
from fastvhost.control.errors import UsageError
from fastvhost.vhostuser.message import DeviceConfig, Request
from fastvhost.vhostuser.net_config import PLAIN, DeviceSettings
from fastvhost.vhostuser.protocol_features import (
    F_PROTOCOL_FEATURES,
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_REPLY_ACK,
    offered_protocol_features,
)
from tests.unit.session_bench import Bench

MAC = bytes.fromhex("52540000001a")
TOLD = DeviceSettings(MAC, 9000)
LEGACY = mask(NET_F_MAC, F_PROTOCOL_FEATURES)


@contextlib.contextmanager
def made(device: DeviceSettings = TOLD, features: int = 0, **settings: Any) -> Iterator[Bench]:
    """features: what the front-end acknowledges, if anything."""
    with contextlib.closing(Bench(device=device, **settings)) as bench:
        wire = mask(PROTOCOL_F_CONFIG, PROTOCOL_F_REPLY_ACK) & offered_protocol_features(bench.port.queue_pairs, device)
        bench.send(Request.SET_PROTOCOL_FEATURES, U64(wire))
        if features:
            assert bench.ack(Request.SET_FEATURES, U64(features)) == 0
        yield bench


def read(bench: Bench, offset: int = 0, count: int = 12) -> bytes:
    return bench.ask(Request.GET_CONFIG, DeviceConfig(offset, 0, bytes(count)))[12:]


def write(bench: Bench, offset: int, data: bytes, flags: int = 0) -> bool:
    """Whether it was taken."""
    return bench.ack(Request.SET_CONFIG, DeviceConfig(offset, flags, data)) == 0


@pytest.mark.parametrize(
    ("device", "pairs", "bits", "asked"),
    [
        (PLAIN, 1, {NET_F_MTU}, False),  # nothing to tell: QEMU would warn of CONFIG at each start
        (PLAIN, 2, {NET_F_MTU, NET_F_STATUS}, True),
        (DeviceSettings(MAC), 1, {NET_F_MTU, NET_F_STATUS, NET_F_MAC}, True),
        (DeviceSettings(mtu=1400), 1, {NET_F_MTU, NET_F_STATUS}, True),
    ],
    ids=["no word", "two pairs", "a MAC", "an MTU"],
)
def test_a_bit_is_offered_where_there_is_something_to_tell(
    device: DeviceSettings, pairs: int, bits: set[int], asked: bool
) -> None:
    with contextlib.closing(Bench(queue_pairs=pairs, device=device)) as bench:
        offered = bench.ask_u64(Request.GET_FEATURES)
        assert {bit for bit in (NET_F_MTU, NET_F_STATUS, NET_F_MAC) if has(offered, bit)} == bits
        assert has(bench.ask_u64(Request.GET_PROTOCOL_FEATURES), PROTOCOL_F_CONFIG) == asked


def test_all_fields_are_those_of_the_port() -> None:
    with made(queue_pairs=3) as bench:
        assert struct.unpack("<6sHHH", read(bench)) == (MAC, 1, 3, 9000)
        assert read(bench, 2, 3) == MAC[2:5]
        assert read(bench, 12, 12) == bytes(12)  # speed, duplex and RSS's, which are not offered


def test_without_an_mtu_the_usual_one_is_told_or_what_the_front_end_set() -> None:
    with made(DeviceSettings(MAC)) as bench:
        assert read(bench, 10, 2) == struct.pack("<H", 1500)  # virtio 1.2, section 5.1.4.1: not 0
        assert bench.ack(Request.NET_SET_MTU, U64(9000)) == 0
        assert read(bench, 10, 2) == struct.pack("<H", 9000)
    with made(DeviceSettings(MAC), without=mask(NET_F_MTU)) as bench:
        assert read(bench, 10, 2) == bytes(2)


def test_a_front_end_sets_no_mtu_beyond_that_of_the_port() -> None:
    with made() as bench:
        assert bench.ack(Request.NET_SET_MTU, U64(9001)) != 0
        assert bench.ack(Request.NET_SET_MTU, U64(9000)) == 0
        assert bench.ack(Request.NET_SET_MTU, U64(1400)) == 0
        assert read(bench, 10, 2) == struct.pack("<H", 1400)


def test_what_lies_beyond_the_end_is_answered_with_nothing() -> None:
    with made() as bench:
        for offset, count in ((0, 200), (24, 1), (23, 2), (0xFFFFFFFF, 1), (0xFFFFFFFF, 256)):
            assert bench.ask(Request.GET_CONFIG, DeviceConfig(offset, 0, bytes(count))) == b""
        assert read(bench, 23, 1) == b"\0"


def test_a_legacy_driver_writes_its_mac_and_nothing_else() -> None:
    """Byte by byte, as Linux does."""
    with made(features=LEGACY) as bench:
        for at, byte in enumerate(b"\x52\x54\0\0\0\x77"):
            assert write(bench, at, bytes([byte]))
        assert read(bench, 0, 6).hex(":") == "52:54:00:00:00:77"
        assert not write(bench, 6, b"\0\0")  # status
        assert not write(bench, 5, b"\0\0")
        assert not write(bench, 0, b"")
        assert not write(bench, 0xFFFFFFFF, b"\0")
        assert not write(bench, 0, MAC, flags=1)  # of a migration
        assert read(bench, 0, 6).hex(":") == "52:54:00:00:00:77"


@pytest.mark.parametrize(
    "features", [0, LEGACY | mask(F_VERSION_1), mask(F_PROTOCOL_FEATURES)], ids=["too early", "modern", "without a MAC"]
)
def test_nobody_else_writes_anything(features: int) -> None:
    """Before features are known, a modern driver, and one that has no MAC of the device's."""
    with made(features=features) as bench:
        assert not write(bench, 0, b"\0")
        assert read(bench, 0, 6) == MAC


def test_what_one_driver_wrote_is_gone_with_its_front_end() -> None:
    with made(features=LEGACY) as bench:
        assert write(bench, 0, bytes(6))
    with made() as bench:
        assert read(bench, 0, 6) == MAC


@pytest.mark.parametrize(
    ("mac", "reason"),
    [
        ("", "is no address"),
        ("52:54:00:12:34", "is no address"),
        ("52:54:00:12:34:56:78", "is no address"),
        ("52:54:00:12:34:5", "is no address"),
        ("52-54-00-12-34-56", "is no address"),
        ("525400123456", "is no address"),
        ("52:54:00:12:34:5g", "is no address"),
        ("52:54:00:12:34:56\n", "is no address"),
        ("01:00:5e:00:00:01", "address of a group"),
        ("33:33:00:00:00:01", "address of a group"),
        ("ff:ff:ff:ff:ff:ff", "address of a group"),
        ("00:00:00:00:00:00", "nobody's address"),
    ],
)
def test_a_bad_mac_is_refused_with_a_good_one_as_example(mac: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"{reason}.*such as (mac=)?52:54:00:12:34:56"):
        port_text.parse(f"a.sock,mac={mac}")


def test_a_port_takes_mac_and_mtu() -> None:
    spec = port_text.parse("a.sock,mac=52:54:00:AB:cd:EF,mtu=9000")
    assert (spec.mac, spec.option("mtu")) == ("52:54:00:ab:cd:ef", "9000")
    assert port_text.parse(str(spec)) == spec
    assert port_text.from_table({"path": "a.sock", "mac": "52:54:00:ab:cd:ef", "mtu": 9000}) == spec


@pytest.mark.parametrize("text", ["a.sock,mtu=67", "a.sock,mtu=65536", "a.sock,mtu=", "a.sock,mtu=1e3"])
def test_a_bad_mtu_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number of bytes from 68 to 65535"):
        port_text.parse(text)


def test_an_mtu_that_could_not_be_told_is_refused() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        port_text.parse("a.sock,mtu=1500,without=MTU")
    with pytest.raises(UsageError, match="no key 'mac'"):
        port_text.parse("cuse:fv0,mac=52:54:00:12:34:56")


def test_the_same_mac_twice_is_refused_on_a_wire_and_said_elsewhere() -> None:
    a, b, c, d = (f"{name}.sock,mac=52:54:00:00:00:0{mac}" for name, mac in zip("abcd", (1, 2, 1, 3), strict=True))
    with pytest.raises(UsageError, match="'a' and 'c' are wired and have the same mac=52:54:00:00:00:01"):
        config.build({"port": [a, c]})
    (said,) = config.build({"port": [a, b, c, d]}).same_macs
    assert said == "ports a, c have the same mac=52:54:00:00:00:01; guests of one network need one each"
    assert config.build({"port": [a, b, d, "e.sock"]}).same_macs == ()
