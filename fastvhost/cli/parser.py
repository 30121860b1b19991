"""argparse with one line for an error, exit code 2, no abbreviated options, and a plain layout of the help."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from fastvhost.control.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of printing its usage and leaving."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError: one line that names the help."""
        raise UsageError(f"{message}; see {self.prog} --help")


def add_control(parser: argparse.ArgumentParser) -> None:
    """--control of the verbs that ask a running fwd."""
    parser.add_argument(
        "--control", metavar="PATH", help="control socket of the fwd to ask; default: the only one running"
    )
