"""Kinds of port whose other end is this host: what --port may say of them, and what they are put together from."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastvhost.control.errors import UsageError
from fastvhost.hostside import namespaces
from fastvhost.hostside.interfaces import name_problem

if TYPE_CHECKING:
    from fastvhost.control.parts import AnyPort, Service
    from fastvhost.control.port_spec import PortSpec

LEAST_MTU, MOST_MTU = 68, 65535
MAX_OWNER = 2**31 - 1
"""TUNSETOWNER takes it as an int."""
YES_NO = {"yes": True, "no": False}

Options = Mapping[str, str]
Check = Callable[[str, str, Options], None]


def _interface(where: str, name: str) -> None:
    if problem := name_problem(name):
        raise UsageError(f"{where}: {problem}")


def _yes_no(where: str, options: Options, *keys: str) -> None:
    for key in keys:
        if options.get(key, "no") not in YES_NO:
            raise UsageError(f"{where}: {key}={options[key]} is neither yes nor no")


def _check_tap(where: str, name: str, options: Options) -> None:
    _check_interface(where, name, options)
    _yes_no(where, options, "persist")
    mtu(where, options.get("mtu", "1500"))
    if (owner := options.get("owner")) is not None:
        user_id(where, owner)


def mtu(where: str, text: str) -> int:
    """Bytes, checked."""
    if not text.isascii() or not text.isdecimal() or not LEAST_MTU <= int(text) <= MOST_MTU:
        raise UsageError(f"{where}: mtu={text} is not a number of bytes from {LEAST_MTU} to {MOST_MTU}")
    return int(text)


def user_id(where: str, user: str) -> int:
    """The number of a user given by name or number."""
    try:
        number = int(user) if user.isascii() and user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"{where}: owner={user}: there is no such user; give a name or a number") from None
    if number > MAX_OWNER:
        raise UsageError(f"{where}: owner={user}: a tap's owner has a number up to {MAX_OWNER}; give another user")
    return number


def _check_interface(where: str, name: str, options: Options) -> None:
    _interface(where, name)
    if (netns := options.get("netns")) is not None and (problem := namespaces.problem(netns)):
        raise UsageError(f"{where}: netns={netns}: {problem}")


def _check_file(where: str, _name: str, options: Options) -> None:
    if not options.get("in") and not options.get("out"):
        raise UsageError(f"{where}: no file; write pcap-file:in=FILE to play one, out=FILE to record")
    played, recorded = options.get("in"), options.get("out")
    if played and recorded and os.path.realpath(played) == os.path.realpath(recorded):
        raise UsageError(f"{where}: one file to play and to record, which would empty it; give two")
    _yes_no(where, options, "loop", "timed")


CHECKS: Mapping[str, Check] = {
    "tap": _check_tap,
    "pcap": _check_interface,
    "packet": _check_interface,
    "xdp": _check_interface,
    "pcap-file": _check_file,
}
"""By kind: raises UsageError where value or keys make no sense."""


def make_port(spec: PortSpec, door: Any) -> AnyPort:
    """The data plane's half of a port."""
    if spec.kind == "pcap-file":
        from fastvhost.dataplane.ports.endpoint import Endpoint

        return Endpoint(spec.name, door)
    if spec.kind == "packet":
        from fastvhost.dataplane.ports.packet import PacketPort

        return PacketPort(spec.name, door)
    if spec.kind == "xdp":
        from fastvhost.dataplane.ports.xdp import XdpPort

        return XdpPort(spec.name, door, spec.queues)
    if spec.kind == "pcap":
        from fastvhost.dataplane.ports.pcap import PcapPort

        return PcapPort(spec.name, door)
    from fastvhost.dataplane.ports.tap import TapPort

    return TapPort(spec.name, door, spec.queues)


def make_service(spec: PortSpec, port: Any) -> Service:
    """The control side of a port."""
    if spec.kind == "pcap-file":
        from fastvhost.hostside.pcap_file import PcapFileService

        loop, timed = (YES_NO[spec.option(key, "no")] for key in ("loop", "timed"))
        return PcapFileService(port, played=spec.option("in"), recorded=spec.option("out"), loop=loop, timed=timed)
    if spec.kind == "packet":
        from fastvhost.hostside.packet import PacketService

        return PacketService(port, spec.interface, netns=spec.option("netns"))
    if spec.kind == "xdp":
        from fastvhost.hostside.xdp import XdpService

        return XdpService(port, spec.interface, queues=spec.queues, netns=spec.option("netns"))
    if spec.kind == "pcap":
        from fastvhost.hostside.pcap import PcapService

        return PcapService(port, spec.interface)
    return _tap_service(spec, port)


def _tap_service(spec: PortSpec, port: Any) -> Service:
    from fastvhost.hostside.tap import TapService

    owner = spec.option("owner")
    return TapService(
        port,
        spec.interface,
        queues=spec.queues,
        persist=YES_NO[spec.option("persist", "no")],
        mtu=int(spec.option("mtu")) if spec.option("mtu") else None,
        owner=user_id(str(spec), owner) if owner else None,
        netns=spec.option("netns"),
    )
