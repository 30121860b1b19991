"""fwd from the first log line to the exit code: signals, the periodic figures, the last words."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvhost import __version__
from fastvhost.cli import render
from fastvhost.cli.output import Figures
from fastvhost.control import host, preflight, runtime_dir
from fastvhost.control.config import FwdConfig
from fastvhost.control.control_socket import ControlSocket
from fastvhost.control.errors import RuntimeFailure
from fastvhost.control.neighbours import NeighbourWatch
from fastvhost.control.parts import Parts
from fastvhost.control.stats import History, Snapshot, snapshot, with_rates
from fastvhost.control.switch import STOP_SECONDS, Switch
from fastvhost.control.units import format_cores

log = logging.getLogger("fastvhost")

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_FIGURES_SECONDS = 0.1
TICK_SECONDS = 0.5
NEIGHBOUR_SECONDS = 5.0


def forward(settings: FwdConfig, parts: Parts | None = None) -> int:
    """Run until a signal ends it. 0 after SIGTERM, 130 after ^C."""
    # Blocked here and so in every thread made from now on: the main thread takes signals out of sigtimedwait() below,
    # and no Python code is ever interrupted half-way.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    preflight.check(settings)
    plan = host.plan_cores(settings.cores, host.observe(), settings.most_workers)
    workers = ", ".join("one not pinned" if core is None else f"core {core}" for core in plan.worker_cores)
    log.info(
        "fastvhost %s, pid %d: workers on %s, control on %s",
        __version__,
        os.getpid(),
        workers,
        format_cores(plan.control_cores),
    )
    for warning in plan.warnings:
        log.warning("%s", warning)
    for name in settings.unwired:
        log.warning(
            "port %s: no wire joins it to another, %s; give --wire %s:OTHER", name, settings.without_a_wire(name), name
        )
    os.sched_setaffinity(0, plan.control_cores)
    switch = Switch(settings, plan, parts)
    history = History(switch)
    control = _control_socket(settings, switch, history)
    out = Figures()
    try:
        switch.start()
        if control:
            control.start()
        code = _wait(settings, switch, history, out)
    finally:
        if control:
            control.stop(0.5)
    return _end(settings, switch, out, code)


def _control_socket(settings: FwdConfig, switch: Switch, history: History) -> ControlSocket | None:
    def show(request: Mapping[str, Any]) -> object:
        name = request.get("port")
        try:
            return switch.describe(None if name is None else str(name))
        except KeyError:
            names = ", ".join(unit.spec.name for unit in switch.ports)
            raise LookupError(f"there is no port '{name}'; the ports are {names}") from None

    runtime_dir.remove_stale()
    try:
        path = Path(settings.control) if settings.control else runtime_dir.own_socket()
        control = ControlSocket(
            path, {"stats": lambda _: history.current(), "show": show}, preflight.group_id(settings.socket_group)
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


def _wait(settings: FwdConfig, switch: Switch, history: History, out: Figures) -> int:
    """Tick along until a signal; raises RuntimeFailure when the switch cannot go on."""
    watch = NeighbourWatch()
    now = time.monotonic()
    period = settings.stats_period
    next_stats = now + period if period else float("inf")
    next_watch = now + 1.0
    printed = snapshot(switch)
    while True:
        pause = max(0.0, min(TICK_SECONDS, next_stats - time.monotonic()))
        received = signal.sigtimedwait(ENDING, pause)
        # Stopped and continued after the pause was over, CPython returns a siginfo that nobody filled in.
        if received and received.si_signo in ENDING:
            # A second ^C ends at once, as it would any program.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
            name = signal.Signals(received.si_signo).name
            log.info("%s: stopping", name)
            return 130 if received.si_signo == signal.SIGINT else 0
        now = time.monotonic()
        history.tick()
        if switch.failure:
            _end(settings, switch, out, 1)
            raise RuntimeFailure(f"{switch.failure}; this is a defect, please report it with the log above")
        if period and now >= next_stats:
            figures = snapshot(switch)
            _print(settings, out, with_rates(figures, printed))
            printed = figures
            # Late ticks (a stopped process, say) are skipped, not made up for.
            next_stats += period * max(1, int((now - next_stats) / period) + 1)
        if now >= next_watch:
            for warning in watch.check(((t.name, t.native_id or 0, t.core) for t in switch.workers), now):
                log.warning("%s", warning)
            next_watch = now + NEIGHBOUR_SECONDS


def _end(settings: FwdConfig, switch: Switch, out: Figures, code: int) -> int:
    in_time = switch.stop()
    _print(settings, out, snapshot(switch), LAST_FIGURES_SECONDS)
    if in_time:
        switch.close()
        log.info("stopped")
        return code
    log.error("a thread did not end within %g s, leaving all the same", STOP_SECONDS)
    logging.shutdown()
    # Its thread may still be reading guest memory: end without taking that away from under it.
    os._exit(code or 1)


def _print(settings: FwdConfig, out: Figures, snapshot: Snapshot, seconds: float = 0.0) -> None:
    # Whoever read our figures may be gone, asleep or out of disk; the guests are not, so that is no reason to end.
    before = out.trouble
    out.say(json.dumps(snapshot) if settings.json else render.stats(snapshot), seconds)
    if out.trouble and out.trouble != before:
        log.warning("figures are left out, standard output does not take them: %s", out.trouble)
