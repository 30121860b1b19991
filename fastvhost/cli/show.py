"""Prints what a running fwd knows about its ports: socket, peer, features, memory regions, rings with their indices."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fastvhost.cli.output import harmless
from fastvhost.cli.parser import add_control
from fastvhost.cli.text import table
from fastvhost.control import control_client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One port or all."""
    parser.add_argument("port", nargs="?", metavar="PORT", help="a port's name; default: all")
    parser.add_argument("--json", action="store_true", help="one object per port and line")
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the ports."""
    if arguments.port is None:
        ports = control_client.ports(arguments.control)
    else:
        ports = control_client.ask(arguments.control, "show", port=arguments.port)
    print(control_client.understood(_as_json if arguments.json else _as_text, ports))
    return 0


def _as_json(ports: list[Any]) -> str:
    return "\n".join(json.dumps(port) for port in ports)


def _as_text(ports: list[Any]) -> str:
    return "\n\n".join(describe(port) for port in harmless(ports))


def describe(port: dict[str, Any]) -> str:
    """One port in indented lines; lists of objects (regions, rings) become tables."""
    lines = [f"port {port['number']} {port['name']} ({port['kind']}), link {port['link']}"]
    for key, value in port.items():
        if key not in ("number", "name", "kind", "link"):
            lines += _field(key.replace("_", " "), value)
    return "\n".join(lines)


def _field(key: str, value: object) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        header = list(dict.fromkeys(column for item in value for column in item))
        rows = [
            [column.replace("_", " ") for column in header],
            *([_cell(item.get(column)) for column in header] for item in value),
        ]
        return [f"  {key}:", *(f"    {line}" for line in table(rows).splitlines())]
    return [f"  {key}: {_cell(value)}"]


def _cell(value: object) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_cell(item)}" for key, item in value.items())
    return str(value)
