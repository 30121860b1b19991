"""The forwarding table of a running fwd under learn: which port an address was last seen at.

show [--vlan N] [--port P]       list it
add MAC PORT [--vlan N]          a static entry: it is not moved by what is learned, does not age, is not flushed
del MAC [--vlan N]               remove a static entry
flush [--port P] [--vlan N]      forget what was learned; frames to such an address go to all ports until it sends
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from fastvhost.cli.output import harmless
from fastvhost.cli.parser import add_control
from fastvhost.control import control_client, mac_words
from fastvhost.control.errors import UsageError

ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "show": ((), ("vlan", "port", "json")),
    "add": (("MAC", "PORT"), ("vlan",)),
    "del": (("MAC",), ("vlan",)),
    "flush": ((), ("vlan", "port")),
}
"""The words that each takes, and its options."""
HEADER = f"{'address':17}  {'vlan':>4}  {'age':>7}  port"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which entries."""
    parser.add_argument("action", choices=ACTIONS, help="what to do, as above")
    parser.add_argument("words", nargs="*", metavar="WORD", help="add: MAC PORT; del: MAC")
    parser.add_argument("--vlan", metavar="N", help="1 to 4094, 0: no VLAN; default: 0 (add, del), or all")
    parser.add_argument("--port", metavar="P", help="show, flush: a port's name; default: all")
    parser.add_argument("--json", action="store_true", help="show: one object per entry and line")
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """List, or change and print what was done."""
    action: str = arguments.action
    request = _request(action, arguments)
    if action == "show":
        _show(arguments, request)
    else:
        print(harmless(str(control_client.ask(arguments.control, f"mac-{action}", **request))))
    return 0


def _request(action: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises UsageError where words are wrong, whatever a running fwd would say."""
    words, options = ACTIONS[action]
    given: list[str] = arguments.words
    if len(given) < len(words):
        raise UsageError(f"mac {action}: {words[len(given)]} is missing; see fastvhost mac --help")
    if len(given) > len(words):
        raise UsageError(f"mac {action}: '{given[len(words)]}' is one word too many; see fastvhost mac --help")
    for option in ("vlan", "port", "json"):
        if getattr(arguments, option) not in (None, False) and option not in options:
            raise UsageError(f"mac {action}: it does not take --{option}; see fastvhost mac --help")
    request: dict[str, Any] = {}
    if given:
        request["address"] = mac_words.station(given[0])
    if port := arguments.port if "port" in options else next(iter(given[1:]), None):
        request["port"] = port
    if arguments.vlan is not None:
        request["vlan"] = mac_words.vlan(arguments.vlan)
    return request


def _show(arguments: argparse.Namespace, request: dict[str, Any]) -> None:
    """Print the table page by page, as it comes."""
    header = [] if arguments.json else [HEADER]
    for rows in control_client.pages(arguments.control, "mac-show", **request):
        lines = header + (list(map(json.dumps, rows)) if arguments.json else control_client.understood(_lines, rows))
        header = []
        if lines:
            print("\n".join(lines))


def _lines(rows: list[Any]) -> list[str]:
    return [f"{row['address']:17}  {row['vlan']:>4}  {_age(row):>7}  {row['port']}" for row in harmless(rows)]


def _age(row: dict[str, Any]) -> str:
    return "static" if row["static"] else f"{row['age']} s"
