"""pcap-file:in=FILE,out=FILE: plays one capture file, records to another."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fastvhost.control import host, port_keys
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.kinds.pcap import libpcap
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec
from fastvhost.dataplane.threads import Thread

ANSWER_SECONDS = 2.0
"""Seconds that a file system has to answer about a capture file."""


class PcapFile(Kind):
    """Capture files."""

    name, place = "pcap-file", 70
    usage = "pcap-file:[in=FILE][,out=FILE][,loop=yes][,timed=yes]"
    keys = ("in", "out", "loop", "timed")
    keys_only = True
    findings = (libpcap,)

    def read(self, where: str, value: str, options: Options) -> Keys:  # noqa: ARG002
        """in= and out=: at least one of them, and different files."""
        played, recorded = options.get("in"), options.get("out")
        if not played and not recorded:
            raise UsageError(f"{where}: no file; write pcap-file:in=FILE to play one, out=FILE to record")
        if played and recorded and os.path.realpath(played) == os.path.realpath(recorded):
            raise UsageError(f"{where}: one file to play and to record, which would empty it; give two")
        port_keys.yes_no(where, options, "loop", "timed")
        return port_keys.as_written(options, *self.keys)

    def default_name(self, value: str, options: Options) -> str:
        """The name of the file that is played, or else of the recorded one."""
        return value or Path(options.get("in") or options.get("out", "")).stem

    def check_host(self, spec: PortSpec) -> tuple[str, ...]:
        """Whether both files can be opened."""
        for check_file, path in ((_check_played, spec.option("in")), (_check_recorded, spec.option("out"))):
            if path:
                _in_time(path, check_file)
        return ()

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """An Endpoint, whose program is the service's two threads."""
        from fastvhost.dataplane.ports.endpoint import Endpoint

        return Endpoint(spec.name, door)

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service:  # noqa: ARG002
        """Plays and records."""
        from fastvhost.hostside.pcap_file import PcapFileService

        loop, timed = (port_keys.is_yes(spec, key) for key in ("loop", "timed"))
        return PcapFileService(port, played=spec.option("in"), recorded=spec.option("out"), loop=loop, timed=timed)


def _in_time(path: str, check_file: Callable[[str], None]) -> None:
    """Run the check in a thread that can be left behind, since a file server may never answer."""
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            check_file(path)
            answer.set_result(None)
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=ask, name="preflight", daemon=True).start()
    try:
        answer.result(ANSWER_SECONDS)
    except TimeoutError:
        raise RuntimeFailure(
            f"pcap-file {path}: its file system does not answer; mount it anew, or give a file elsewhere"
        ) from None


def _check_played(path: str) -> None:
    """Check a file to be played. A pipe is not opened: it must be opened only once."""
    try:
        if stat.S_ISREG(Path(path).stat().st_mode):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(f"pcap-file {path}: {error.strerror}; give a capture file that can be read") from None


def _check_recorded(path: str) -> None:
    """Check a file to be recorded: it is made or emptied at the start."""
    fault = host.directory_fault(Path(path).parent)
    try:
        if stat.S_ISREG(Path(path).stat().st_mode):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        fault = ""
    except FileNotFoundError:
        pass
    except OSError as error:
        fault = error.strerror or str(error)
    if fault:
        raise UsageError(f"pcap-file {path}: {fault}; give a place that can be written")


KIND = PcapFile()
