"""Puts a port's policy into effect: at the start, and again where it changes while traffic runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastvhost.control.errors import UsageError
from fastvhost.control.policy import Policy


def set_vlans(policy: Policy, number: int, bridge: Any) -> None:
    """The VLANs of the port with this number, which lanes do not know yet."""
    if policy.vlans.keys:
        bridge.set_vlans(number, native=policy.vlans.untagged, tagged=policy.vlans.tagged)


def put_into_effect(policy: Policy, ports: Mapping[str, Any], wire: Any, bridge: Any) -> None:
    """The policy of the port of that name, instead of the one that it had.

    ports: those of the data plane, by name. wire: that on which its frames come; None: it sends none. bridge: the
    switch; None where there is none. Raises UsageError where it cannot be; then what is left to do was not done.
    """
    port = ports[policy.name]
    try:
        if bridge is not None:
            bridge.guard(port, policy.macs)
            bridge.limit_macs(port, policy.max_macs)
            bridge.isolate(port, policy.isolate)
            bridge.limit_floods(port, policy.storm or 0, multicast=policy.storm_multicast)
            bridge.mirror(port, ports[policy.mirror] if policy.mirror else None)
        if wire is not None:
            wire.set_limit(bits=policy.rate, frames=policy.pps, burst=policy.burst)
    except ValueError as error:
        raise UsageError(f"port {policy.name}: {error}") from None


def let_go(old: Policy, new: Policy | None, port: Any, bridge: Any) -> bool:
    """What a port has by its old policy, and not by the new one (None: by none), another one may have from now on.

    Returns whether there is anything like that.
    """
    macs = set(old.macs) - set(new.macs if new else ())
    mirrors = old.mirror != "" and (new is None or old.mirror != new.mirror)
    if macs:
        bridge.let_go(port, macs)
    if mirrors:
        bridge.mirror(port, None)
    return bool(macs) or mirrors


def put_instead(
    changes: Sequence[tuple[Policy, Policy]], ports: Mapping[str, Any], wires: Mapping[str, Any], bridge: Any
) -> None:
    """Policies instead of others: of each port that has another one, the old and the new one. But for its VLANs.

    ports, wires: of the data plane, by the port's name. Raises UsageError like put_into_effect.
    """
    for old, new in changes:
        let_go(old, new, ports[old.name], bridge)
    for _, new in changes:
        put_into_effect(new, ports, wires.get(new.name), bridge)
