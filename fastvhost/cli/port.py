"""Adds a port to a running fwd, removes one, changes what is done with its frames, or lists all. Others lose no frame.

A port that is added has no wire: `fastvhost wire add A:B` joins it to another one. With a port its wire is removed.
set takes the keys of every kind of port (fastvhost fwd --help) but its name: vlan=10 rate=1Gbit. KEY= takes one away.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from fastvhost.cli import changed
from fastvhost.cli.text import table
from fastvhost.control import port_text
from fastvhost.control.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which port."""
    meaning = "add: a port as --port of fwd takes it; del, set: the name of a port"
    changed.add_arguments(parser, "SPEC|NAME", meaning, more=("set",))
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="set: what is to be different")


def run(arguments: argparse.Namespace) -> int:
    """Change or list."""
    subject = changed.subject("port", arguments, "SPEC" if arguments.action == "add" else "NAME")
    keys = ",".join(arguments.keys)
    if arguments.action == "set":
        if not keys:
            raise UsageError(f"port set {subject}: KEY=VALUE is missing; see fastvhost port --help")
        return changed.ask(arguments, "port-set", name=subject, keys=keys)
    if keys:
        raise UsageError(f"port {arguments.action}: '{keys}' is one word too many; see fastvhost port --help")
    if arguments.action == "add":
        return changed.ask(arguments, "port-add", spec=_absolute(subject))
    if arguments.action == "del":
        return changed.ask(arguments, "port-del", name=subject)
    return changed.show(arguments, _rows, _lines)


def _absolute(text: str) -> str:
    """The same port with the whole path of its socket: fwd may run in another directory. Raises UsageError."""
    spec = port_text.parse(text)
    if not spec.socket:
        return text
    _, comma, keys = text.partition(",")
    return f"{spec.kind.name}:{os.path.abspath(spec.socket)}{comma}{keys}"  # noqa: PTH100 - a link stays as it is


def _rows(ports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: port.get(key) for key in ("number", "name", "kind", "link", "wired_to")} for port in ports]


def _lines(ports: list[dict[str, Any]]) -> str:
    rows = [["-" if cell is None else str(cell) for cell in port.values()] for port in ports]
    return table([["number", "name", "kind", "link", "wired to"], *rows])
