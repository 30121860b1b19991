"""Edits of the configuration of a running fwd: what the verbs `port` and `wire` ask for, and what differs after them.

An edit is another FwdConfig, checked like the one of the start. It raises UsageError and changes nothing by itself.
"""

from __future__ import annotations

import dataclasses

from fastvhost.control import config, policy, port_text
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import UsageError
from fastvhost.control.port_spec import PortSpec


def add_port(now: FwdConfig, text: str) -> FwdConfig:
    """With one port more, which has no wire yet. text: as --port takes it."""
    spec = port_text.parse(text)
    if any(port.name == spec.name for port in now.ports):
        raise UsageError(f"port add {text}: there is a port '{spec.name}' already; give this one another name=")
    return _checked(dataclasses.replace(now, ports=(*now.ports, spec)))


def remove_port(now: FwdConfig, name: str) -> FwdConfig:
    """Without a port, and without its wire."""
    _known(now, f"port del {name}", name)
    if len(now.ports) == 1:
        raise UsageError(f"port del {name}: it is the last port; end fwd, or add another port first")
    ports = tuple(port for port in now.ports if port.name != name)
    for port in ports:
        if port.policy.mirror == name:
            raise UsageError(f"port del {name}: it is the mirror of port '{port.name}'; first remove that one")
    return dataclasses.replace(now, ports=ports, wires=tuple(wire for wire in now.wires if name not in wire))


def set_port(now: FwdConfig, name: str, text: str) -> FwdConfig:
    """With another policy of a port, which goes on. text: KEY=VALUE,KEY=VALUE; KEY= takes that key away."""
    where = f"port set {name} {text}"
    _known(now, where, name)
    spec = next(port for port in now.ports if port.name == name)
    keys, given = dict(spec.policy.keys), set()
    for word in text.split(","):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{where}: '{word}' is not KEY=VALUE; KEY= takes a key away")
        if key in given:
            raise UsageError(f"{where}: {key}= stands twice; give it once")
        if key == "name" or key in spec.kind.keys:
            raise UsageError(f"{where}: {key}= stays as it is while the port is there; use port del and port add")
        if key not in policy.KEYS:
            settable = ", ".join(one for one in policy.KEYS if one != "name")
            raise UsageError(f"{where}: there is no key '{key}'; port set takes {settable}")
        given.add(key)
        keys.pop(key, None)
        keys |= {key: value} if value else {}
    changed = dataclasses.replace(spec, policy=policy.read(where, keys, name))
    ports = tuple(changed if port is spec else port for port in now.ports)
    return _checked(dataclasses.replace(now, ports=ports))


def add_wire(now: FwdConfig, text: str) -> FwdConfig:
    """With two ports joined that have no wire. text: A:B."""
    where = f"wire add {text}"
    _has_wires(now, where)
    left, right = ends = _ends(now, where, text)
    if left == right:
        raise UsageError(f"{where}: a wire joins two ports; write wire add A:B")
    for wire in now.wires:
        for name in ends:
            if name in wire:
                has = ":".join(wire)
                raise UsageError(f"{where}: port '{name}' has the wire {has} already; first do wire del {has}")
    return _checked(dataclasses.replace(now, wires=(*now.wires, (left, right))))


def remove_wire(now: FwdConfig, text: str) -> FwdConfig:
    """With a wire taken out: frames from both of its ports drop as no_egress. text: A:B or B:A."""
    where = f"wire del {text}"
    _has_wires(now, where)
    ends = set(_ends(now, where, text))
    wires = tuple(wire for wire in now.wires if set(wire) != ends)
    if len(wires) == len(now.wires):
        there = f"the wires are {', '.join(map(':'.join, now.wires))}" if now.wires else "there is no wire at all"
        raise UsageError(f"{where}: these ports are not joined; {there}")
    return dataclasses.replace(now, wires=wires)


def reload(now: FwdConfig, file: FwdConfig) -> FwdConfig:
    """What the configuration file says now. Raises UsageError where more differs than ports and wires."""
    for field in dataclasses.fields(FwdConfig):
        old, new = getattr(now, field.name), getattr(file, field.name)
        if field.name not in ("ports", "wires") and old != new:
            option = field.name.replace("_", "-")
            raise UsageError(
                f"reload: {option} is {_said(new)} in the file and {_said(old)} here, which only a new start of fwd "
                "changes; restart it, or put the old value back"
            )
    return file


def differences(old: FwdConfig, new: FwdConfig) -> tuple[str, ...]:
    """A line about each port and wire that differs."""
    before, after = ({port.name: port for port in one.ports} for one in (old, new))
    gone, come = set(map(frozenset, old.wires)), set(map(frozenset, new.wires))
    return (
        *(f"wire {a}:{b} removed" for a, b in old.wires if frozenset((a, b)) not in come),
        *(f"port {name} removed" for name in before if name not in after),
        *(
            f"port {name} made anew: {spec}"
            for name, spec in after.items()
            if not before.get(name, spec).is_but_for_policy(spec)
        ),
        *(
            f"port {name} set: {', '.join(_set(before[name], spec))}"
            for name, spec in after.items()
            if name in before and before[name] != spec and before[name].is_but_for_policy(spec)
        ),
        *(f"port {name} added: {spec}" for name, spec in after.items() if name not in before),
        *(f"wire {a}:{b} added" for a, b in new.wires if frozenset((a, b)) not in gone),
    )


def _set(before: PortSpec, after: PortSpec) -> list[str]:
    """The keys of its policy that differ, as port set takes them."""
    old, new = dict(before.policy.keys), dict(after.policy.keys)
    return [f"{key}={new.get(key, '')}" for key in policy.KEYS if old.get(key) != new.get(key)]


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "not set"
    return "not set" if value is None else str(value)


def _has_wires(now: FwdConfig, where: str) -> None:
    if now.forward == "learn":
        raise UsageError(f"{where}: --forward learn joins all ports, and has no wires; start fwd with --forward patch")


def _known(now: FwdConfig, where: str, name: str) -> None:
    names = [port.name for port in now.ports]
    if name not in names:
        raise UsageError(f"{where}: there is no port '{name}'; the ports are {', '.join(names)}")


def _ends(now: FwdConfig, where: str, text: str) -> tuple[str, str]:
    left, colon, right = text.partition(":")
    if not colon or not left or not right:
        raise UsageError(f"{where}: a wire is named by its two ports; write A:B")
    for name in (left, right):
        _known(now, where, name)
    return left, right


def _checked(settings: FwdConfig) -> FwdConfig:
    config.check_together(settings)
    return settings
