"""The requests at the control socket about the forwarding table of a running fwd.

A table may have a million entries, and one thread answers all clients. So `mac-show` answers for so many buckets of the
table at a time, and says where to go on: no answer takes long to make, nor much memory while its reader is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastvhost.control import mac_words
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.wiring import Wiring

Request = Mapping[str, Any]
Handlers = dict[str, Callable[[Request], Any]]
PAGE = 1024
"""Buckets of four entries: at most 4096 rows in one answer, about 400 KB; 3 ms for a table that is half full."""


def reading(wiring: Wiring) -> Handlers:
    """By command: what only looks."""

    def show(request: Request) -> dict[str, Any]:
        table = _table(wiring)
        number, vlan = _number(wiring, request.get("port")), _vlan(request)
        first = request.get("from", 0)
        if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < table.buckets:
            raise UsageError(f"mac-show: from {first}: begin with 0 and go on with the `next` of the last answer")
        names = {unit.number: unit.spec.name for unit in wiring.ports}
        rows = [
            _row(row, names[row.port])
            for row in table.rows(first, PAGE)
            if row.port in names and number in (None, row.port) and vlan in (None, row.vlan)
        ]
        return {"rows": rows, "next": first + PAGE if first + PAGE < table.buckets else None}

    return {"mac-show": show}


def changing(wiring: Wiring) -> Handlers:
    """By command: what changes the table. Each answers with a sentence about what it did."""

    def add(request: Request) -> str:
        table = _table(wiring)
        address, vlan, name = mac_words.station(request.get("address")), _vlan(request) or 0, str(request.get("port"))
        number = _number(wiring, name)
        _check_member(wiring, name, vlan)
        for there, how, remedy in (
            (table.reserved_port(address), "reserved for", "take it off the addresses of that port first"),
            (table.static_port(address, vlan), "static at", f"fastvhost mac del {address} --vlan {vlan} removes that"),
        ):
            if there not in (None, number):
                raise RuntimeFailure(f"mac: {address} is {how} port '{wiring.port_name(there)}'; {remedy}")
        _refusing(table.add, address, number, vlan)
        return f"{address} in VLAN {vlan} is static at port {name}"

    def remove(request: Request) -> str:
        address, vlan = mac_words.station(request.get("address")), _vlan(request) or 0
        _refusing(_table(wiring).remove, address, vlan)
        return f"{address} in VLAN {vlan} is not static any more"

    def flush(request: Request) -> str:
        removed = _table(wiring).flush(port=_number(wiring, request.get("port")), vlan=_vlan(request))
        return f"{removed} learned {'address is' if removed == 1 else 'addresses are'} forgotten"

    return {"mac-add": add, "mac-del": remove, "mac-flush": flush}


def _table(wiring: Wiring) -> Any:
    if wiring.bridge is None:
        raise RuntimeFailure(
            "mac: this fwd forwards along wires and learns no addresses; start it with --forward learn for that"
        )
    return wiring.bridge.table


def _number(wiring: Wiring, name: object) -> int | None:
    """Of the port with this name. None: no name was given."""
    if name is None:
        return None
    for unit in wiring.ports:
        if unit.spec.name == name:
            return unit.number
    names = ", ".join(unit.spec.name for unit in wiring.ports)
    raise RuntimeFailure(f"mac: there is no port '{name}'; the ports are {names}")


def _check_member(wiring: Wiring, name: str, vlan: int) -> None:
    """Raises RuntimeFailure where this port can never get frames of this VLAN."""
    vlans = {unit.spec.name: unit.spec.policy.vlans for unit in wiring.ports}
    if not any(one.keys for one in vlans.values()):
        if vlan:
            raise RuntimeFailure(
                f"mac: VLAN {vlan}: no port of this switch has vlan= or trunk=, so all addresses are in VLAN 0; leave "
                "--vlan out"
            )
        return
    here = vlans[name]
    if here.keys and vlan not in (here.untagged, *(here.tagged or ())):
        keys = ",".join(f"{key}={value}" for key, value in here.keys)
        raise RuntimeFailure(
            f"mac: port '{name}' ({keys}) is no member of VLAN {vlan}; give --vlan with one that it is a member of"
        )


def _vlan(request: Request) -> int | None:
    value = request.get("vlan")
    return None if value is None else mac_words.vlan(value)


def _refusing(change: Callable[..., None], *arguments: object) -> None:
    """Raises RuntimeFailure where the table refuses."""
    try:
        change(*arguments)
    except ValueError as error:
        raise RuntimeFailure(f"mac: {error}") from None


def _row(row: Any, port: str) -> dict[str, Any]:
    age = None if row.static else row.age
    return {"address": row.address, "vlan": row.vlan, "port": port, "age": age, "static": row.static}
