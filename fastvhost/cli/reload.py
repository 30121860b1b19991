"""Puts what changed in the --config file of a running fwd into effect: ports and wires, all of it or nothing.

SIGHUP does the same. A port whose keys changed is removed and made anew. Other options need a new start.
"""

from __future__ import annotations

import argparse

from fastvhost.cli import changed
from fastvhost.cli.parser import add_control


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--control."""
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line about each change."""
    return changed.ask(arguments, "reload")
