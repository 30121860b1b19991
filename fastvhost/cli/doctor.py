"""Check this host; each finding comes with the command that fixes it."""

from __future__ import annotations

import argparse
import sys

from fastvhost.cli.output import printable
from fastvhost.cli.text import paint
from fastvhost.control import diagnosis

COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only the directory for the sockets."""
    parser.add_argument(
        "--directory", default=".", metavar="DIR", help="where the ports' sockets will be; default: here"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings. Returns 1 where fwd cannot run."""
    findings = diagnosis.examine(arguments.directory)
    for finding in findings:
        print(f"{paint(finding.verdict.ljust(4), COLOURS[finding.verdict], sys.stdout)}  {printable(finding.text)}")
        if finding.remedy:
            print(f"      {printable(finding.remedy)}")
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0
