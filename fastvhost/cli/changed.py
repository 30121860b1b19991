"""What the verbs that change a running fwd have in common: their arguments, the request, what is printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from fastvhost.cli.output import harmless
from fastvhost.cli.parser import add_control
from fastvhost.control import control_client
from fastvhost.control.errors import UsageError

CHANGE_SECONDS = 30.0
"""Seconds to wait for the answer: a worker may be long in coming where it shares its core."""
Rows = list[dict[str, Any]]


def add_arguments(
    parser: argparse.ArgumentParser, subject: str, meaning: str, more: tuple[str, ...] = ()
) -> None:
    """add, del, list or `more`, and of what."""
    parser.add_argument("action", choices=("add", "del", *more, "list"), help="what to do")
    parser.add_argument("subject", nargs="?", metavar=subject, help=meaning)
    parser.add_argument("--json", action="store_true", help="list: one object per line")
    add_control(parser)


def subject(verb: str, arguments: argparse.Namespace, wanted: str) -> str:
    """What to change. Raises UsageError where it is missing, or where there is one too many."""
    given: str | None = arguments.subject
    if arguments.action == "list":
        if given:
            raise UsageError(f"{verb} list: '{given}' is one word too many; it lists all; see fastvhost {verb} --help")
        return ""
    if not given:
        raise UsageError(f"{verb} {arguments.action}: {wanted} is missing; see fastvhost {verb} --help")
    if arguments.json:
        raise UsageError(f"{verb} {arguments.action}: --json is for {verb} list; leave it out")
    return given


def ask(arguments: argparse.Namespace, command: str, **request: str) -> int:
    """Have the fwd change something, and print a line about each change."""
    lines = control_client.ask(arguments.control, command, seconds=CHANGE_SECONDS, **request)
    print(control_client.understood("\n".join, harmless(lines)) or "nothing differs")
    return 0


def show(arguments: argparse.Namespace, rows: Callable[[Rows], Rows], text: Callable[[Rows], str]) -> int:
    """Print a list made of what the fwd tells of its ports."""
    told = control_client.ports(arguments.control)
    if arguments.json:
        print(control_client.understood(lambda ports: "\n".join(map(json.dumps, rows(ports))), told))
    elif lines := control_client.understood(lambda ports: text(rows(ports)), harmless(told)):
        print(lines)
    return 0
