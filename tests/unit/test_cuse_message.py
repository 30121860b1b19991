"""CUSE's bytes: requests that are too short, too long or contradict themselves, and the answers."""

from __future__ import annotations

import struct

import pytest

from fastvhost.vhostcuse import message
from fastvhost.vhostcuse.ioctls import IoctlNumber, command_name
from fastvhost.vhostcuse.message import MalformedRequestError
from tests.unit.fake_kernel import IN, ioctl_body, request


@pytest.mark.parametrize("length", [0, 1, 39])
def test_a_request_shorter_than_its_header_is_malformed(length: int) -> None:
    with pytest.raises(MalformedRequestError):
        message.decode_request(request(14)[:length])


@pytest.mark.parametrize("lie", [0, 39, 41, 1 << 31])
def test_a_request_that_lies_about_its_length_is_malformed(lie: int) -> None:
    data = bytearray(request(14, b"x"))
    data[:4] = struct.pack("=I", lie if lie != 41 else 42)
    with pytest.raises(MalformedRequestError):
        message.decode_request(bytes(data))


def test_a_request_keeps_the_thread_that_asks() -> None:
    decoded = message.decode_request(request(39, b"body", thread=77, unique=1 << 40))
    assert decoded == (39, 1 << 40, 77, b"body")


def test_every_prefix_of_an_ioctl_is_malformed_but_the_whole() -> None:
    body = ioctl_body(1, IoctlNumber.SET_VRING_NUM, bytes(8))
    for length in range(len(body)):
        with pytest.raises(MalformedRequestError):
            message.decode_ioctl(body[:length])
    assert message.decode_ioctl(body).data == bytes(8)


def test_an_ioctl_with_more_data_than_it_says_is_malformed() -> None:
    with pytest.raises(MalformedRequestError):
        message.decode_ioctl(ioctl_body(1, IoctlNumber.SET_VRING_NUM, bytes(8)) + b"x")


@pytest.mark.parametrize(("major", "minor"), [(6, 31), (8, 0), (7, 11)])
def test_a_kernel_of_another_protocol_is_refused(major: int, minor: int) -> None:
    with pytest.raises(MalformedRequestError, match=rf"speaks FUSE {major}\.{minor}"):
        message.decode_init(struct.pack("=IIII", major, minor, 0, 1))


def test_the_kernels_own_minor_number_does_not_matter() -> None:
    assert message.decode_init(struct.pack("=IIII", 7, 99, 0, 1)) == (7, 99)


def test_the_introduction_asks_for_unrestricted_ioctls_and_names_the_device() -> None:
    answer = message.encode_init(5, "fv0", 10, 1024)
    assert struct.unpack_from("=IiQ", answer) == (len(answer), 0, 5)
    major, _minor, _, flags, _, most, dev_major, dev_minor = struct.unpack_from("=8I", answer, 16)
    assert (major, flags, dev_major, dev_minor) == (7, 1, 10, 1024)
    assert answer[16 + 72 :] == b"DEVNAME=fv0\0"
    # fuse_dev_do_read's least buffer: the request of a largest write.
    assert IN.size + 40 + most <= message.READ_BYTES


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 64])
def test_names_that_no_device_can_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        message.encode_init(1, name)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (IoctlNumber.GET_FEATURES, 0x8008AF00),
        (IoctlNumber.SET_FEATURES, 0x4008AF00),
        (IoctlNumber.SET_OWNER, 0xAF01),
        (IoctlNumber.RESET_OWNER, 0xAF02),
        (IoctlNumber.SET_MEM_TABLE, 0x4008AF03),
        (IoctlNumber.SET_LOG_BASE, 0x4008AF04),
        (IoctlNumber.SET_LOG_FD, 0x4004AF07),
        (IoctlNumber.SET_VRING_NUM, 0x4008AF10),
        (IoctlNumber.SET_VRING_ADDR, 0x4028AF11),
        (IoctlNumber.SET_VRING_BASE, 0x4008AF12),
        (IoctlNumber.GET_VRING_BASE, 0xC008AF12),
        (IoctlNumber.SET_VRING_KICK, 0x4008AF20),
        (IoctlNumber.SET_VRING_CALL, 0x4008AF21),
        (IoctlNumber.SET_VRING_ERR, 0x4008AF22),
        (IoctlNumber.SET_BACKEND_FEATURES, 0x4008AF25),
        (IoctlNumber.GET_BACKEND_FEATURES, 0x8008AF26),
        (IoctlNumber.NET_SET_BACKEND, 0x4008AF30),
    ],
)
def test_the_numbers_are_those_of_the_kernels_header(command: IoctlNumber, number: int) -> None:
    assert command == number


def test_a_command_is_called_by_its_name_or_its_number() -> None:
    assert command_name(0xAF01) == "VHOST_SET_OWNER"
    assert command_name(0x1234) == "ioctl 0x00001234"
