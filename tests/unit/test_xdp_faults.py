"""The error of an xdp port when the kernel refuses: the thing, the reason and the remedy in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.control.port_text import parse
from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.dataplane.ports.xdp_socket import LONGEST, Redirect, XdpError, XdpSocket
from fastvhost.hostside import xdp
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.xdp import XdpService, advice, longest
from tests.unit.service_rig import until


@pytest.mark.parametrize(
    ("step", "number", "said"),
    [
        ("socket", errno.EPERM, "not permitted (CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF); run as root"),
        ("map", errno.EPERM, "not permitted (CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF); run as root"),
        ("program", errno.EACCES, "not permitted"),
        ("attach", errno.EPERM, "not permitted"),
        ("socket", errno.EAFNOSUPPORT, "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS), or it is not allowed here"),
        ("map", errno.EINVAL, "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"),
        ("map", errno.ENOSYS, "this kernel has no bpf(2) (CONFIG_BPF_SYSCALL); use packet:eth9"),
        ("attach", errno.EINVAL, "too old, 5.9 is the first that will do; use packet:eth9"),
        ("attach", errno.EBUSY, "another XDP program is attached; stop the program that did so"),
        ("attach", errno.EEXIST, "ip link set eth9 xdp off"),
        ("attach", errno.EOPNOTSUPP, "its driver runs no XDP programs; use packet:eth9"),
        ("bind", errno.EBUSY, "another AF_XDP socket has its queue"),
        ("bind", errno.EINVAL, "binding a socket to its queue: Invalid argument; use packet:eth9"),
        ("memory", errno.ENOBUFS, "no memory that may be locked is left for its rings; raise the limit (ulimit -l)"),
    ],
)
def test_a_refusal_names_the_reason_and_a_remedy(step: str, number: int, said: str) -> None:
    assert said in advice(XdpError(step, number), "eth9")  # type: ignore[arg-type]


class Port:
    """A port of the data plane that writes down what it is given."""

    name, attention_fd, link_up = "lo", -1, False

    def attach(self, sockets: Sequence[XdpSocket], longest: int) -> None:
        raise AssertionError(f"nothing was to be attached, and not {len(sockets)} sockets for {longest} bytes")

    def set_longest(self, frame_bytes: int) -> None: ...
    def set_link(self, up: bool) -> None: ...
    def detach(self) -> None: ...
    def count_kernel_drops(self, frames: int) -> None: ...
    def events(self) -> list[tuple[str, int]]:
        return []


def test_a_queue_that_stays_taken_is_asked_for_again_for_a_second_and_then_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0

    def refuse(*_: object) -> Redirect:
        nonlocal tries
        tries += 1
        raise XdpError("attach", errno.EBUSY)

    monkeypatch.setattr(xdp, "Redirect", refuse)
    assert xdp.LET_GO_SECONDS == 1.0
    monkeypatch.setattr(xdp, "time", SimpleNamespace(monotonic=iter((0.0, 0.3, 0.9, 1.1)).__next__))
    monkeypatch.setattr(xdp.interfaces, "look", lambda name: xdp.Interface(name, 7, True, True, 1500, "", True))
    with pytest.raises(HostPortError, match="xdp lo: another XDP program is attached"):
        XdpService(Port(), "lo")._attach()
    assert tries == 3


def test_a_stop_does_not_wait_for_a_queue_that_stays_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[None] = []

    def refuse(*_: object) -> Redirect:
        tries.append(None)
        raise XdpError("attach", errno.EBUSY)

    monkeypatch.setattr(xdp, "Redirect", refuse)
    monkeypatch.setattr(xdp, "LET_GO_SECONDS", 4 * MAX_WAIT)
    state = ["down", "up"]
    monkeypatch.setattr(
        xdp.interfaces, "look", lambda name, *_: xdp.Interface(name, 7, state[-1] == "up", True, 1500, "", True)
    )
    port = Port()
    port.attention_fd = os.eventfd(0, os.EFD_NONBLOCK)
    service = XdpService(port, "lo")
    state.append("down")
    service.open()
    service.start()
    state.append("up")
    until(lambda: len(tries) > 1)
    service.stop(MAX_WAIT)  # raises TimeoutError
    os.close(port.attention_fd)


def test_an_interface_with_fewer_queues_than_asked_for_is_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(xdp.interfaces, "look", lambda name: xdp.Interface(name, 7, True, True, 1500, "", True))
    monkeypatch.setattr(xdp.interfaces, "receive_queues", lambda _: 2)
    with pytest.raises(HostPortError, match=r"it has 2 of the 4 receive queues; write queues=2, or as root: ethtool"):
        XdpService(Port(), "lo", queues=4)._attach()


def test_what_is_no_ethernet_is_refused() -> None:
    with pytest.raises(HostPortError, match="it carries no Ethernet frames"):
        XdpService(Port(), "lo")._attach()


def test_the_longest_frame_is_that_of_the_mtu_as_far_as_it_fits_a_chunk() -> None:
    assert longest(1500) == 1522
    assert longest(9000) == LONGEST == 3840


def test_a_specification_takes_queues_and_nothing_else() -> None:
    spec = parse("xdp:eth0,queues=4")
    assert (spec.kind.name, spec.value, spec.queues, spec.name) == ("xdp", "eth0", 4, "eth0")
    assert parse(str(spec)) == spec


def test_an_mtu_that_a_late_worker_was_not_told_of_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def late(_: Port, frame_bytes: int) -> None:
        told.append(frame_bytes)
        if len(told) == 1:
            raise WorkerStuckError("a worker did not park within 5 s")

    monkeypatch.setattr(Port, "set_longest", late)
    service, seen = XdpService(Port(), "lo"), xdp.Interface("lo", 7, False, True, 1600, "", True)
    with pytest.raises(WorkerStuckError):
        service._follow(seen)
    service._follow(seen)
    service._follow(seen)
    assert told == [longest(1600)] * 2
