"""Parses --port: KIND:VALUE[,key=value...], or a bare path whose ending tells the kind."""

from __future__ import annotations

from collections.abc import Mapping

from fastvhost.control import policy
from fastvhost.control.errors import UsageError
from fastvhost.control.kinds import BARE, KINDS
from fastvhost.control.port_spec import PortSpec


def parse(text: str) -> PortSpec:
    """A port specification from its text."""
    first, *pairs = text.split(",")
    kind, colon, value = first.partition(":")
    if (not colon or kind not in KINDS) and first.endswith(BARE.bare_suffix):
        kind, colon, value = BARE.name, ":", first
    if not colon:
        raise UsageError(
            f"--port {text}: no kind of port; write a path ending in {BARE.bare_suffix}, or KIND:VALUE with "
            f"{' or '.join(KINDS)}"
        )
    if kind in KINDS and KINDS[kind].keys_only and value:
        # The first key stands where other kinds have their value.
        value, pairs = "", [value, *pairs]
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, word = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--port {text}: '{pair}' is not key=value")
        if key in options:
            raise UsageError(f"--port {text}: {key}= stands twice; give it once")
        options[key] = word
    return _build(f"--port {text}", kind, value, options)


def from_table(table: Mapping[str, object]) -> PortSpec:
    """A port specification from a table of a configuration file: kind and value, or path, and the keys."""
    rest = {key: _written(value) for key, value in table.items()}
    where = "port " + ",".join(f"{key}={value}" for key, value in rest.items())
    path = rest.pop("path", "")
    value = rest.pop("value", path)
    return _build(where, rest.pop("kind", BARE.name if path else ""), value, rest)


def _written(value: object) -> str:
    """A value of TOML as the command line has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _build(where: str, name: str, value: str, options: dict[str, str]) -> PortSpec:
    if (kind := KINDS.get(name)) is None:
        raise UsageError(f"{where}: there is no kind '{name}'; use {' or '.join(KINDS)}")
    known = {*kind.keys, *policy.KEYS}
    for key in options:
        if key not in known:
            raise UsageError(f"{where}: a {name} port has no key '{key}'; it takes {', '.join(sorted(known))}")
    keys = kind.read(where, value, options)
    return PortSpec(kind, value, policy.read(where, options, kind.default_name(value, options)), keys)
