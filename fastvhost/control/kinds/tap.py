"""tap:NAME, a tap interface of this host: the other end is its network stack."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

from fastvhost.control import host, port_keys
from fastvhost.control.errors import UsageError
from fastvhost.control.finding import Finding
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec

TUN = Path("/dev/net/tun")
MAX_OWNER = 2**31 - 1
"""TUNSETOWNER takes it as an int."""


def user_id(where: str, user: str) -> int:
    """The number of a user given by name or number."""
    try:
        number = int(user) if user.isascii() and user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(f"{where}: owner={user}: there is no such user; give a name or a number") from None
    if number > MAX_OWNER:
        raise UsageError(f"{where}: owner={user}: a tap's owner has a number up to {MAX_OWNER}; give another user")
    return number


def taps() -> Finding:
    """Whether taps can be made."""
    if not TUN.exists():
        return Finding("note", f"no {TUN}: tap: ports do not work, others do", "sudo modprobe tun")
    if not os.access(TUN, os.R_OK | os.W_OK):
        return Finding("note", f"{TUN} is not open to this user: no tap: ports", f"sudo chmod 666 {TUN}")
    if not host.has_capability(host.CAP_NET_ADMIN):
        return Finding(
            "note",
            "no CAP_NET_ADMIN: tap: ports work only on taps that root made for this user",
            f"sudo ip tuntap add dev NAME mode tap user {os.getuid()} && sudo ip link set NAME up",
        )
    return Finding("ok", f"{TUN} is there and taps can be made: tap: ports work")


class Tap(Kind):
    """A tap interface, made where it is not there."""

    name, place = "tap", 30
    usage = "tap:NAME[,queues=N][,mtu=N][,persist=yes][,owner=USER][,netns=NS]"
    keys = ("queues", "persist", "mtu", "owner", "netns")
    findings = (taps,)

    def read(self, where: str, value: str, options: Options) -> Keys:
        """The interface's name, and how it is made."""
        port_keys.interface(where, value, options)
        port_keys.yes_no(where, options, "persist")
        port_keys.mtu(where, options.get("mtu", "1500"))
        if (owner := options.get("owner")) is not None:
            user_id(where, owner)
        return (*port_keys.queues(where, options), *port_keys.as_written(options, "persist", "mtu", "owner", "netns"))

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """One queue for each pair."""
        from fastvhost.dataplane.ports.tap import TapPort

        return TapPort(spec.name, door, spec.queues)

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service:  # noqa: ARG002
        """Makes the interface, and makes it again where it goes."""
        from fastvhost.hostside.tap import TapService

        owner = spec.option("owner")
        return TapService(
            port,
            spec.value,
            queues=spec.queues,
            persist=port_keys.is_yes(spec, "persist"),
            mtu=int(spec.option("mtu")) if spec.option("mtu") else None,
            owner=user_id(str(spec), owner) if owner else None,
            netns=spec.option("netns"),
        )


KIND = Tap()
