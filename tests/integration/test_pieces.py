"""Frames in several pieces between a guest and this host: each kind of port on an interface of a namespace.

The worker is stepped by hand, and the guest is a driver written for tests: nothing is lost, and a piece in a wrong
place cannot hide behind a protocol that sends again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.dataplane.ports.pcap import PcapPort
from fastvhost.dataplane.ports.tap import TapPort
from fastvhost.dataplane.ports.xdp import XdpPort
from fastvhost.hostside.packet import PacketService
from fastvhost.hostside.pcap import PcapService
from fastvhost.hostside.tap import TapService
from fastvhost.hostside.xdp import XdpService
from tests.integration.namespace import Namespace
from tests.unit.guest_and_port import BUFFERS, MOST, RINGS, GuestAndPort, frame, frames, guest_and_port, post, send

PROTOCOL = 0x88B5
"""Of the frames here. A socket bound to it does not see what it sends itself."""
TAP, VETH = ("t0", "t0"), ("w0", "w1")
"""The port's interface, and the one that the host's socket is bound to: for a tap, the stack's side of the same one."""
KINDS: dict[str, tuple[Any, Any, tuple[str, str]]] = {
    "tap": (TapPort, TapService, TAP),
    "packet": (PacketPort, PacketService, VETH),
    "pcap": (PcapPort, PcapService, VETH),
    "xdp": (XdpPort, XdpService, VETH),
}


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """So that no frame overtakes another one in the kernel."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


@contextmanager
def guest_and_host(kind: str, features: int, ring_size: int = 256) -> Iterator[tuple[GuestAndPort[Any], socket.socket]]:
    """A guest and its port, with a socket at the other end of the port's interface."""
    new_port, new_service, (interface, far) = KINDS[kind]
    with Namespace() as space, space.entered(), on_one_cpu():
        if far != interface:
            space.run(f"ip link add {interface} type veth peer name {far}; ip link set {interface} up")
            space.run(f"ip link set {far} up")
        with guest_and_port(lambda door: new_port(interface, door), features, ring_size) as pair:
            service = new_service(pair.port, interface)
            service.open()
            try:
                assert pair.port.link_up
                with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                    sock.bind((far, PROTOCOL))
                    yield pair, sock
            finally:
                service.stop(MAX_WAIT)


def arriving(sock: socket.socket, found: list[bytes], most: int = MOST) -> Callable[[], bool]:
    """Whether so many frames have arrived; found: which."""

    def is_there() -> bool:
        with suppress(BlockingIOError):
            while True:
                found.append(sock.recv(1 << 16))
        return len(found) >= most

    return is_there


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_host_gets_frames_that_the_guest_sent_in_pieces(kind: str, ring: str) -> None:
    found: list[bytes] = []
    with guest_and_host(kind, RINGS[ring]) as (pair, sock):
        send(pair.guest, frames())
        pair.wait_sent(MOST)
        pair.until("a burst at the host's socket", arriving(sock, found))
        assert found == frames()


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_gets_frames_in_more_pieces_than_the_kernel_takes_in_one_call(kind: str) -> None:
    found: list[bytes] = []
    sent = [frame(number, 1514) for number in range(3)]
    with guest_and_host(kind, RINGS["split"], ring_size=4096) as (pair, sock):
        send(pair.guest, sent, ((12,), (12,) + 1200 * (1,), (12, 700)))
        pair.wait_sent(3)
        pair.until("three frames at the host's socket", arriving(sock, found, 3))
        assert found == sent


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("buffers", BUFFERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_guest_gets_the_hosts_frames_in_buffers_of_several_pieces(kind: str, buffers: str, ring: str) -> None:
    with guest_and_host(kind, RINGS[ring] | BUFFERS[buffers].features) as (pair, sock):
        post(pair.guest, BUFFERS[buffers])
        for one in frames():
            sock.send(one)
        assert pair.received(MOST) == frames()
