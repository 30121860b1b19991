"""fwd from the first log line to the exit code: signals, the periodic and the last figures."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from fastvhost import __version__
from fastvhost.backend import keeper
from fastvhost.cli import render
from fastvhost.cli.output import Figures, printable
from fastvhost.cli.reports import Reports
from fastvhost.control import (
    affinity,
    changes,
    host,
    live_figures,
    macs,
    metrics_server,
    preflight,
    records,
    runtime_dir,
)
from fastvhost.control.config import FwdConfig
from fastvhost.control.control_socket import ControlSocket
from fastvhost.control.core_watch import CoreWatch
from fastvhost.control.errors import FastvhostError, RuntimeFailure, UsageError
from fastvhost.control.metrics_server import MetricsServer
from fastvhost.control.placement import Place, PlacementWatch
from fastvhost.control.service_manager import ServiceManager
from fastvhost.control.stats import History, Snapshot, with_rates
from fastvhost.control.switch import STOP_SECONDS, Switch
from fastvhost.control.units import format_cores
from fastvhost.control.worker_thread import WorkerThread

log = logging.getLogger("fastvhost")
T = TypeVar("T")

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_FIGURES_SECONDS = 0.1
CONTROL_SECONDS = 0.1
"""Seconds that the thread of the control socket, or of the metrics, has to finish its answer."""
END_SECONDS = 1.9
"""Seconds after the signal until the process ends, whatever is stuck."""
DEFECT = "this is a defect, please report it with the log above"
TICK_SECONDS = 0.5
MOST_DEFECTS = 8
"""The most kinds of internal errors that are logged, so that a defect cannot fill a disk."""
CORE_WATCH_SECONDS = 5.0
REPORTS = "the reports to the service manager"


Answering = dict[str, ControlSocket | MetricsServer]
"""Who answers questions of other programs, by what the log calls it."""
Read = Callable[[], FwdConfig]
"""Reads the configuration file anew. Raises UsageError."""


def block_signals() -> None:
    """In this thread and so in every one made from now on: the main thread takes signals out of sigtimedwait() in
    serve(), and no Python code is ever interrupted half-way."""
    ending = _ending()
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    if signal.SIGHUP in ending:
        # Never called. Newer systemd refuses a service of Type=notify-reload without a handler (SigCgt in proc(5)).
        signal.signal(signal.SIGHUP, lambda *_: None)


def _ending() -> tuple[signal.Signals, ...]:
    """The signals that end fwd. A signal that was ignored at the start (by nohup, or a shell's `&`) stays ignored."""
    # Call this before they are blocked: a blocked signal stays pending for sigtimedwait() even where it is ignored.
    return tuple(number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN)


def serve(switch: Switch, helper: keeper.Keeper | None, read: Read | None) -> int:
    """Run until a signal ends it. 0 after SIGTERM, 130 after ^C. After block_signals().

    helper: the process that closes files. read: what SIGHUP and `reload` do; SIGHUP ends it where there is no file.
    """
    settings, plan = switch.wiring.config, switch.plan
    workers = ", ".join("one not pinned" if core is None else f"core {core}" for core in plan.worker_cores)
    log.info(
        "fastvhost %s, pid %d: workers on %s, control on %s",
        __version__,
        os.getpid(),
        workers,
        format_cores(plan.control_cores),
    )
    if reason := affinity.pin(0, plan.control_cores):
        log.warning("the control plane cannot be kept off the workers' cores, it runs where it may: %s", reason)
    if settings.idle == "adaptive" and (reason := host.naps_fault()):
        log.warning("%s", reason)
    if helper:
        affinity.pin(helper.pid, plan.control_cores)
    history = History(switch.wiring)
    manager = ServiceManager.of(os.environ)
    answering: Answering = {}
    out = Figures()
    try:
        if control := _control_socket(settings, switch, history, read):
            answering["the control socket"] = control
        if settings.metrics:
            group = preflight.group_id(settings.socket_group)
            answering["the metrics"] = metrics_server.make(settings.metrics, switch.counters, switch.describe, group)
        switch.start()
        for one in answering.values():
            one.start()
    except BaseException as error:
        manager.stopping(printable(str(error)))
        switch.halt()
        for one in answering.values():
            one.stop(CONTROL_SECONDS)
        raise
    reports = Reports(manager, switch, time.monotonic())
    reports.ready()
    try:
        code = _wait(settings, switch, history, out, helper, read, reports)
    except BaseException as error:
        defect = "" if isinstance(error, FastvhostError) else f"internal error {error!r}; {DEFECT}"
        reports.stopping(defect or str(error))
        _end(settings, switch, answering, out, 1, defect or str(error))
        raise
    return _end(settings, switch, answering, out, code)


def _control_socket(
    settings: FwdConfig, switch: Switch, history: History, read: Read | None
) -> ControlSocket | None:
    def show(request: Mapping[str, Any]) -> object:
        name, first = request.get("port"), request.get("from")
        if name is None and first is not None:
            if isinstance(first, bool) or not isinstance(first, int):
                raise UsageError(f"show: from {first}: begin with 0 and go on with the `next` of the last answer")
            rows, following = switch.describe_from(first)
            return {"rows": rows, "next": following}
        try:
            return switch.describe(None if name is None else str(name))
        except KeyError:
            raise LookupError(f"there is no port '{name}'; the ports are {', '.join(switch.ports)}") from None

    records.remove_abandoned()
    try:
        if settings.control:  # only the places of an explicit configuration
            path = Path(settings.control)
        else:
            runtime_dir.remove_stale()
            path = runtime_dir.own_socket()
        control = ControlSocket(
            path,
            {
                "stats": lambda _: history.current(),
                "top": lambda _: live_figures.figures(switch.wiring),
                "show": show,
                **macs.reading(switch.wiring),
            },
            preflight.group_id(settings.control_group or settings.socket_group),
            (lambda: None) if settings.control else runtime_dir.choose,
            {**changes.handlers(switch.change, read), **macs.changing(switch.wiring)},
            preflight.group_id(settings.control_group),
        )
        control.open()
    except (OSError, RuntimeFailure) as error:
        if settings.control:
            raise
        remedy = "" if isinstance(error, RuntimeFailure) else "; name a place with --control PATH"
        log.warning("stats and show cannot ask this process: %s%s", error, remedy)
        return None
    log.info("control socket %s", path)
    return control


def _wait(
    settings: FwdConfig,
    switch: Switch,
    history: History,
    out: Figures,
    helper: keeper.Keeper | None,
    read: Read | None,
    reports: Reports,
) -> int:
    """The main thread's loop, until a signal. Raises RuntimeFailure when the switch cannot go on."""
    watches = _Watches(switch.wiring.workers, switch.plan.control_cores)
    now = time.monotonic()
    period = settings.stats_period
    next_stats = now + period if period else float("inf")
    next_watch = now + 1.0
    printed = switch.counters()
    survive = _Survivor()
    ending = _ending()
    while True:
        pause = max(0.0, min(TICK_SECONDS, next_stats - time.monotonic()))
        received = signal.sigtimedwait(ending, pause)
        # Where the process was stopped and continued after the timeout, CPython returns a siginfo that is not filled
        # in.
        if received and received.si_signo == signal.SIGHUP and read and received.si_signo in ending:
            reports.reloading()
            survive(REPORTS, reports.reloaded, _reload(switch, read))
        elif received and received.si_signo in ending:
            if signal.SIGINT in ending:
                # A second ^C ends at once, as it would any program.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
            name = signal.Signals(received.si_signo).name
            _end_by(END_SECONDS)
            reports.stopping(f"{name}: stopping")
            log.info("%s: stopping", name)
            return 130 if received.si_signo == signal.SIGINT else 0
        now = time.monotonic()
        survive("the figures of the last second", history.tick)
        survive("the forwarding table", switch.tick, now)
        survive(REPORTS, reports.look, now)
        if helper:
            survive("the helper process", helper.look)
        if switch.failure:
            raise RuntimeFailure(f"{switch.failure}; {DEFECT}")
        if period and now >= next_stats:
            printed = survive("the periodic figures", _print_since, settings, out, switch, printed) or printed
            # Late ticks (a stopped process, say) are skipped, not made up for.
            next_stats += period * max(1, int((now - next_stats) / period) + 1)
        if now >= next_watch:
            survive("the watch over the cores", watches.look, now)
            next_watch = now + CORE_WATCH_SECONDS


def _reload(switch: Switch, read: Read) -> bool:
    """SIGHUP: the same as the verb `reload`. Returns whether the file was put into effect."""
    try:
        if not switch.change(changes.reload(read)):
            log.info("SIGHUP: nothing differs")
    except FastvhostError as error:
        log.error("SIGHUP: %s; nothing was changed", error)
        return False
    except Exception as error:
        log.exception("SIGHUP: internal error %r; %s", error, DEFECT)
        return False
    return True


class _Watches:
    """Watches whether threads are on their cores, and workers have theirs to themselves."""

    def __init__(self, workers: Sequence[WorkerThread], control_cores: frozenset[int]) -> None:
        self._workers = workers
        self._control_cores = control_cores
        self._core_watch = CoreWatch()
        self._placement = PlacementWatch()

    def look(self, now: float) -> None:
        """To be called by the main thread, which runs on the control plane's cores."""
        workers = self._workers
        places = [Place(one.name, (one.native_id,), frozenset({one.core})) for one in workers
                  if one.native_id and one.core is not None]  # fmt: skip
        others = {thread.native_id for thread in threading.enumerate()} - {one.native_id for one in workers}
        control = tuple(thread for thread in (threading.get_native_id(), *others) if thread)
        for warning in (
            *self._placement.check([*places, Place("the control plane", control, self._control_cores)]),
            *self._core_watch.check(((one.name, one.native_id or 0, one.core_in_use) for one in workers), now),
        ):
            log.warning("%s", warning)


class _Survivor:
    """Calls the main thread's periodic tasks.

    An error in one of them is logged, and ports and signals are served on.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, what: str, action: Callable[..., T], *arguments: object) -> T | None:
        try:
            return action(*arguments)
        except Exception as error:
            text = f"{what}: internal error {type(error).__name__}: {error}"
            if text not in self._said and len(self._said) < MOST_DEFECTS:
                self._said.add(text)
                log.exception("%s; they are left out, and %s", text, DEFECT)
        return None


def _end_by(seconds: float) -> None:
    """End the process after this many seconds, even if no Python code can run any more by then."""
    nowhere: TextIO = sys.stderr
    with contextlib.suppress(OSError):
        nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115 - faulthandler keeps it
    faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)


def _end(
    settings: FwdConfig, switch: Switch, answering: Answering, out: Figures, code: int, error: str = ""
) -> int:
    """Stop everything, print the last figures. Returns the exit code; does not return where a thread is stuck.

    error: why it ends; printed on stderr in that case, otherwise the caller raises it.
    """
    survive = _Survivor()
    for what, one in answering.items():
        survive(what, one.withdraw)
    in_time = survive("the switch", switch.halt) is True
    survive("the last figures", lambda: _print(settings, out, switch.counters(), LAST_FIGURES_SECONDS))
    for what, one in answering.items():
        in_time = survive(what, one.stop, CONTROL_SECONDS) is True and in_time
    if in_time:
        switch.close()
        faulthandler.cancel_dump_traceback_later()
        log.info("stopped")
        if switch.left_behind:
            # exit(3) may wait for a stream that a thread is reading.
            logging.shutdown()
            os._exit(code)
        return code
    if error:
        log.error("%s", error)
    log.error("a thread did not end within %g s, leaving all the same", STOP_SECONDS)
    logging.shutdown()
    # That thread may still read guest memory: end the process without unmapping it.
    os._exit(code or 1)


def _print_since(settings: FwdConfig, out: Figures, switch: Switch, printed: Snapshot) -> Snapshot:
    """Print figures, with the rates since those of `printed`. Returns what was printed."""
    figures = switch.counters()
    _print(settings, out, with_rates(figures, printed))
    return figures


def _print(settings: FwdConfig, out: Figures, snapshot: Snapshot, seconds: float = 0.0) -> None:
    # The reader of the figures may have ended, or its disk may be full. Guests do not depend on it: go on.
    before = out.trouble
    out.say(json.dumps(snapshot) if settings.json else render.stats(snapshot), seconds)
    if out.trouble and out.trouble != before:
        log.warning("figures are left out, standard output does not take them: %s", out.trouble)
