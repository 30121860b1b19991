"""Joins two ports of a running fwd, takes a wire out, or lists the wires. Other ports lose no frame.

Frames that wait at the time for room go where the new wire leads; those of a port without a wire drop as no_egress.
"""

from __future__ import annotations

import argparse
from typing import Any

from fastvhost.cli import changed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which wire."""
    changed.add_arguments(parser, "A:B", "the names of the two ports")


def run(arguments: argparse.Namespace) -> int:
    """Change or list."""
    subject = changed.subject("wire", arguments, "A:B")
    if arguments.action == "list":
        return changed.show(arguments, _rows, _lines)
    return changed.ask(arguments, f"wire-{arguments.action}", wire=subject)


def _rows(ports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each wire once, at its first port."""
    places = {port["name"]: place for place, port in enumerate(ports)}
    return [
        {"ports": [port["name"], port["wired_to"]]}
        for port in ports
        if port["wired_to"] and places[port["name"]] < places[port["wired_to"]]
    ]


def _lines(wires: list[dict[str, Any]]) -> str:
    return "\n".join(":".join(wire["ports"]) for wire in wires)
