"""The command line's table of contents. Each verb is one small file with add_arguments() and run()."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from fastvhost.cli import output
from fastvhost.cli.parser import Parser
from fastvhost.control import open_files
from fastvhost.control.errors import FastvhostError, UsageError

VERSION, HELP = ("--version", "-V", "version"), ("--help", "-h", "help")
VERBS = {
    "fwd": "forward frames between ports",
    "show": "one port, or all, of a running fwd: socket, peer, features, memory regions, rings",
    "stats": "counters of a running fwd",
    "top": "what a running fwd does now: rates, drops by reason, rings, how busy workers are",
    "mac": "addresses of a running fwd under learn: list them, add or remove static ones, forget what was learned",
    "port": "add a port to a running fwd, remove one, list them",
    "wire": "join two ports of a running fwd, take a wire out, list them",
    "reload": "put what changed in the --config file of a running fwd into effect, all of it or nothing",
    "doctor": "check this host; each finding comes with the command that fixes it",
    "example": "lines to paste for qemu, libvirt or DPDK's virtio-user",
    "demo": "forward between two built-in guests for ten seconds: no VM, no root, no hugepages",
    "bench": "rates and latency of this machine, with built-in guests",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code: 0 done, 1 failed while running, 2 wrong usage or configuration, 130 on ^C."""
    output.open_closed_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except FastvhostError as error:
        output.complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        output.discard()  # the reader of our output has closed it
        return 0
    except OSError as error:
        if open_files.ran_out(error):
            output.complain(f"{error.strerror}; {open_files.RAISE}")
            return 1
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        output.discard()
        output.complain(f"standard output: {error.strerror}; make room there, or write elsewhere")
        return 1


def _run(argv: list[str]) -> int:
    if argv and argv[0] in VERBS:
        verb = import_module(f"fastvhost.cli.{argv[0]}")
        parser = Parser(prog=f"fastvhost {argv[0]}", description=verb.__doc__)
        verb.add_arguments(parser)
        code: int = verb.run(parser.parse_args(argv[1:]))
        return code
    if not argv:
        raise UsageError("no verb given; see fastvhost --help")
    if about := {**dict.fromkeys(VERSION, _version), **dict.fromkeys(HELP, _overview)}.get(argv[0]):
        if len(argv) > 1:
            verb_help = f"{argv[1]} --help" if argv[0] in HELP and argv[1] in VERBS else "--help"
            raise UsageError(f"{argv[0]} takes nothing more; see fastvhost {verb_help}")
        print(about())
        return 0
    raise UsageError(f"{argv[0]}: there is no such verb; the verbs are {', '.join(VERBS)}")


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: fastvhost VERB [OPTION ...]", "", "A vhost-user back-end and busy-polling forwarder.", ""]
    lines += [f"  {verb:{width}}  {meaning}" for verb, meaning in VERBS.items()]
    lines += ["", "fastvhost VERB --help says more; fastvhost --version tells how this copy was built."]
    return "\n".join(lines)


def _version() -> str:
    from fastvhost import build_info

    info = build_info()
    return "\n".join(
        [f"fastvhost {info.pop('version')}", *(f"{key.replace('_', ' ')}: {value}" for key, value in info.items())]
    )
