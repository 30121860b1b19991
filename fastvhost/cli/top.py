"""What a running fwd does now, as it happens: rates both ways, drops by reason,
rings, how busy workers are.

On a terminal until q; h tells the keys. --once prints the figures once, for
scripts. The screen needs the library rich: pip install 'fastvhost[top]'
"""

from __future__ import annotations

import argparse
import time

from fastvhost.cli.live.asker import Source
from fastvhost.cli.live.choice import LEAST_EVERY, MOST_EVERY, NUMBER, Choice
from fastvhost.cli.live.columns import NAMED
from fastvhost.cli.live.rows import reading
from fastvhost.cli.parser import add_control
from fastvhost.control import control_client, units
from fastvhost.control.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show first, and how often."""
    add = parser.add_argument
    add("--every", default="1s", metavar="TIME", help="time between two readings; default 1s")
    add("--sort", default=NUMBER, choices=(NUMBER, *NAMED), metavar="COLUMN",
        help=f"number (default), {', '.join(NAMED)}")  # fmt: skip
    add("--reverse", action="store_true", help="in reverse order")
    add("--filter", default="", metavar="TEXT", help="only ports whose name, kind or link has each of these words")
    add("--once", action="store_true", help="print the figures once, with the rates of --every, and end")
    add("--json", action="store_true", help="with --once: one object on one line")
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """Once, or until q."""
    every = units.duration("every", arguments.every, LEAST_EVERY, MOST_EVERY)
    choice = Choice(arguments.sort, arguments.reverse, arguments.filter, every)
    if arguments.once:
        return _once(Source(arguments.control), choice, as_json=arguments.json)
    if arguments.json:
        raise UsageError("top: --json is for --once; add it, or leave --json out")
    from fastvhost.cli.live import terminal

    terminal.check()
    try:
        from fastvhost.cli.live import loop
    except ImportError:
        raise UsageError(
            "top: rich is not installed; pip install 'fastvhost[top]', or print the figures once with --once"
        ) from None
    return loop.watch(Source(arguments.control), choice)


def _once(source: Source, choice: Choice, *, as_json: bool) -> int:
    from fastvhost.cli.live import once

    before = source.ask()
    time.sleep(choice.every)
    figures = control_client.understood(lambda now: reading(now, before), source.ask())
    print((once.as_json if as_json else once.as_text)(figures, choice.chosen(figures.ports)))
    return 0
