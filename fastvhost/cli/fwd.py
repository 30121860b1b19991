"""Forward frames between ports until SIGTERM or ^C.

Counters go to stdout, the log narrative to stderr. Options may stand in a TOML file under their long names
(port = ["a.sock", "b.sock"], hold-timeout = "50ms"); what the command line says wins.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

from fastvhost.cli import log
from fastvhost.cli.output import printable
from fastvhost.control import config, config_file, host, policy, vlans
from fastvhost.control.config import FwdConfig
from fastvhost.control.kinds import BARE, KINDS
from fastvhost.control.units import format_cores, format_duration

# Long option, name of its value, and meaning. Values are text here; control.config parses them, from a file and from
# the command line alike.
OPTIONS = (
    (
        "forward",
        "patch|learn",
        "along wires (default for two ports, and with --wire), or as an Ethernet switch of all ports",
    ),
    (
        "on-full",
        "hold|drop",
        "the receiving guest has no buffers: leave frames in the sender's ring (default), or drop",
    ),
    ("hold-timeout", "TIME", "hold for so long without progress, then drop; default 100ms"),
    ("mac-table", "N", "learn: addresses that the table is made for, 1k to 1M; default 64k"),
    ("mac-age", "TIME", "learn: forget an address that sent nothing for so long; default 300s"),
    ("cores", "LIST", "one worker on each core of a list such as 0,2-3; default: one, where it disturbs least"),
    ("idle", "adaptive|poll|interrupt", "without frames: nap, then sleep (default); go on polling; or sleep at once"),
    ("idle-sleep-max", "TIME", "the longest nap of --idle adaptive; default 50us"),
    ("stats-period", "SECONDS", "print counters and rates every so many seconds"),
    ("control", "PATH", "control socket; default: in the runtime directory, where fastvhost stats and show find it"),
    ("control-group", "GROUP", "group that may change ports and wires through the control socket, beside you and root"),
    ("metrics", "ADDR:PORT", "serve the figures to Prometheus there, or at unix:PATH; without ADDR on 127.0.0.1"),
    ("socket-group", "GROUP", "group that may connect to the sockets (mode 0660)"),
    (
        "config",
        "FILE.toml",
        "read options from a file; fastvhost reload and SIGHUP put changed ports and wires into effect",
    ),
)
PORTS = "\n".join(
    (
        "ports:",
        *(f"  {line}" for kind in KINDS.values() for line in kind.usage.splitlines()),
        f"A path that ends in {BARE.bare_suffix} is {BARE.name}:PATH. Every kind takes these keys, too:",
        *(f"  {line}" for line in policy.USAGE),
        "learn: vlan=N (without tags), or trunk=10+20-29 (with tags) and native=N (of these, without): its VLANs.",
        "NS is a network namespace: a name of ip netns, a process id, or a path.",
        "The order of --port is the port number.",
    )
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of fwd."""
    parser.epilog = PORTS
    add = parser.add_argument
    add("--port", action="append", metavar="SPEC", help="a port, two of them at least; the kinds are listed below")
    add("--wire", action="append", metavar="A:B", help="join the ports of these names; default: 0 and 1, 2 and 3, ...")
    for option, value, meaning in OPTIONS:
        add(f"--{option}", metavar=value, help=meaning)
    add("--json", action="store_const", const=True, help="print one JSON object per line")
    add("--check", action="store_true", help="check options, files, group and cores, print what would run, and leave")
    add("--log-level", choices=("debug", "info", "warning"), default="info", help="how much to say on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Check or run."""
    values = {option: getattr(arguments, option.replace("-", "_")) for option in config.OPTIONS}
    given = {option: value for option, value in values.items() if value is not None}
    read = None if arguments.config is None else functools.partial(config_file.build, arguments.config, given)
    settings = read() if read else config.build(given)
    log.configure(arguments.log_level)
    if arguments.check:
        return _check(settings)
    return _forward(settings, read)


def _forward(settings: FwdConfig, read: Callable[[], FwdConfig] | None) -> int:
    from fastvhost.backend import keeper
    from fastvhost.cli import forwarding
    from fastvhost.control import open_files
    from fastvhost.control.switch import Switch

    forwarding.block_signals()
    open_files.raise_limit()  # of the helper process, too
    with keeper.started() as helper:
        return forwarding.serve(Switch.of(settings), helper, read)


def _check(settings: FwdConfig) -> int:
    from fastvhost.control import open_files, preflight

    files = open_files.check(settings, open_files.raise_limit())
    in_the_way = preflight.check_for_later(settings)
    plan = host.plan_cores(settings.cores, host.observe(), settings.most_workers)
    warnings = [*files, *in_the_way, *settings.same_macs, *plan.warnings]
    if settings.json:
        print(json.dumps({**_as_json(settings, plan), "warnings": warnings}))
    else:
        print("\n".join(_lines(settings, plan)))
    for warning in warnings:
        print(f"fastvhost: warning: {printable(warning)}", file=sys.stderr)
    return 0


def _lines(settings: FwdConfig, plan: host.CorePlan) -> list[str]:
    lines = [f"port {number} {port.name}: {port}" for number, port in enumerate(settings.ports)]
    lines += [f"wire: {left} <-> {right}" for left, right in settings.wires]
    if settings.forward == "learn":
        lines.append(f"learn: all ports, {settings.mac_table} addresses, forgotten after {settings.mac_age} s")
        vlans_of = [(port.name, port.policy.vlans) for port in settings.ports]
        lines += [f"vlans: {sentence}" for sentence in [vlans.ports_without_keys(vlans_of)] if sentence]
    lines += [f"not wired, {settings.without_a_wire(name)}: {name}" for name in settings.unwired]
    lines.append(f"on full: {_on_full(settings)}")
    naps = f", naps up to {format_duration(settings.idle_sleep_max)}" if settings.idle == "adaptive" else ""
    lines.append(f"idle: {settings.idle}{naps}")
    lines += [
        f"worker{number}: {'not pinned' if core is None else f'core {core}'}"
        for number, core in enumerate(plan.worker_cores)
    ]
    lines.append(f"control plane: cores {format_cores(plan.control_cores)}")
    return lines


def _on_full(settings: FwdConfig) -> str:
    """What happens with a frame that its receiver has no room for."""
    if settings.on_full == "drop":
        return "drop"
    timeout = format_duration(settings.hold_timeout)
    if settings.forward == "learn":
        return f"copy, {timeout} each, 256 frames or 512 KiB a receive queue; what is flooded: drop"
    return f"hold, {timeout} without progress"


def _as_json(settings: FwdConfig, plan: host.CorePlan) -> dict[str, Any]:
    return {
        "ports": [
            {
                "name": port.name,
                "kind": port.kind.name,
                "path": port.socket,
                "mode": port.option("mode", "server"),
                "queue_pairs": port.queues,
                "policy": dict(port.policy.keys[1:]),
            }
            for port in settings.ports
        ],
        "wires": [list(wire) for wire in settings.wires],
        "unwired": list(settings.unwired),
        "on_full": settings.on_full,
        "hold_timeout": settings.hold_timeout,
        "idle": settings.idle,
        "idle_sleep_max": settings.idle_sleep_max,
        "worker_cores": list(plan.worker_cores),
        "control_cores": sorted(plan.control_cores),
    }
