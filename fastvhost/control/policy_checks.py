"""What the policies of several ports must have in common. Raises UsageError where they contradict each other."""

from __future__ import annotations

from collections.abc import Iterable

from fastvhost.control.errors import UsageError
from fastvhost.control.port_spec import PortSpec


def check(ports: Iterable[PortSpec], *, learn: bool) -> None:
    """All ports of one forwarder. learn: it is a switch."""
    by_name = {port.name: port for port in ports}
    owners: dict[str, str] = {}
    for port in by_name.values():
        if not learn:
            _needs_no_switch(port)
        _has_its_mac(port)
        for mac in port.policy.macs:
            if other := owners.get(mac):
                raise UsageError(
                    f"port {port.name}: macs={mac} is port '{other}''s already; an address belongs to one port"
                )
            owners[mac] = port.name
        if port.policy.mirror:
            _has_a_mirror(port, by_name)
    for port in by_name.values():
        if port.mac and owners.get(port.mac, port.name) != port.name:
            raise UsageError(
                f"port {port.name}: mac={port.mac} is among the macs= of port '{owners[port.mac]}', so its frames would"
                " be dropped; give it another one"
            )


def _needs_no_switch(port: PortSpec) -> None:
    for key, value in port.policy.of_a_switch:
        raise UsageError(
            f"--port {port}: {key}={value} says what an Ethernet switch does, and --forward patch is none; use "
            f"--forward learn, without --wire, or leave {key}= out"
        )


def _has_its_mac(port: PortSpec) -> None:
    if port.mac and port.policy.macs and port.mac not in port.policy.macs:
        raise UsageError(
            f"port {port.name}: mac={port.mac} is not among its macs=, so its frames would be dropped; add it there"
        )


def _has_a_mirror(port: PortSpec, by_name: dict[str, PortSpec]) -> None:
    mirror = port.policy.mirror
    if mirror == port.name:
        raise UsageError(f"port {port.name}: mirror={mirror} is the port itself; name another port for the copies")
    if mirror not in by_name:
        raise UsageError(
            f"port {port.name}: mirror={mirror}: there is no port '{mirror}'; the ports are {', '.join(by_name)}"
        )
    if by_name[mirror].policy.mirror:
        raise UsageError(
            f"port {port.name}: mirror={mirror}: port '{mirror}' has a mirror= itself, and copies are not "
            "copied again; name a port without one"
        )
