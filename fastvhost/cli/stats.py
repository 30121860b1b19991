"""Counters of a running fwd, through its control socket."""

from __future__ import annotations

import argparse
import json

from fastvhost.cli import render
from fastvhost.cli.output import harmless
from fastvhost.cli.parser import add_control
from fastvhost.control import control_client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--json and --control."""
    parser.add_argument("--json", action="store_true", help="one object on one line")
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the counters and the rates of about the last second."""
    snapshot = control_client.ask(arguments.control, "stats")
    print(json.dumps(snapshot) if arguments.json else control_client.understood(render.stats, harmless(snapshot)))
    return 0
