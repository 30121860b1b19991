"""Lines to paste that attach a guest to a port."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from fastvhost.backend import qemu
from fastvhost.cli.output import harmless
from fastvhost.control import control_client, installed, port_text
from fastvhost.control.errors import FastvhostError, UsageError
from fastvhost.control.kinds import BARE, KINDS
from fastvhost.control.port_spec import PortSpec

GUESTS = tuple(dict.fromkeys(guest for kind in KINDS.values() for guest in kind.guests))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What kind of guest, and which port."""
    parser.add_argument("guest", choices=GUESTS, metavar="|".join(GUESTS), help="what to attach")
    parser.add_argument(
        "port", metavar="PORT", help="a port of the running fwd by name, or a port as in fwd --port, or a socket's path"
    )
    parser.add_argument(
        "--qemu",
        metavar="VERSION",
        help="of the QEMU that takes the lines; default: of the one here, or the newest",
    )
    parser.add_argument("--memory", default="1G", help="memory of the guest; default 1G")
    parser.add_argument("--control", metavar="PATH", help="control socket of the fwd that has the port")


def run(arguments: argparse.Namespace) -> int:
    """Print the lines."""
    spec = _find(arguments.port, arguments.control)
    if not spec.kind.guests:
        others = " or ".join(kind.name for kind in KINDS.values() if kind.guests)
        raise UsageError(f"{arguments.port}: a {spec.kind.name} port takes no guest; name a {others} port")
    version = _version(arguments.qemu)
    print(lines(arguments.guest, spec, arguments.memory, version))
    if said := remark(arguments.guest, spec, version):
        print(f"fastvhost: {said}", file=sys.stderr)
    return 0


def lines(guest: str, spec: PortSpec, memory: str = "1G", version: qemu.Version | None = None) -> str:
    """The lines to paste for one kind of guest and one port. version: of QEMU; None: the newest."""
    return spec.kind.example(guest, spec, memory, version)


def remark(guest: str, spec: PortSpec, version: qemu.Version | None) -> str:
    """A remark about the lines; or an empty text."""
    return spec.kind.remark(guest, spec, version)


def _version(given: str | None) -> qemu.Version | None:
    if given is None:
        return installed.qemu_version()
    if (version := qemu.version_in(given)) is None:
        raise UsageError(f"--qemu {given}: no version; write --qemu 7.2 or --qemu 11.1.0")
    return version


def _find(port: str, control: str | None) -> PortSpec:
    if "/" in port or ":" in port or port.split(",")[0].endswith(BARE.bare_suffix):
        return port_text.parse(port)
    try:
        (about,) = control_client.understood(list, harmless(control_client.ask(control, "show", port=port)))
    except FastvhostError as error:
        raise UsageError(f"{port}: neither a path that ends in .sock nor a port of a running fwd ({error})") from None
    return control_client.understood(_described, about)


def _described(about: Mapping[str, Any]) -> PortSpec:
    return KINDS[about["kind"]].from_description(about)
