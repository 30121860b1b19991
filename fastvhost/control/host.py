"""The host: which cores there are, who may use them, who is busy on them, and what follows for the workers. CLI.md."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from fastvhost.control.errors import UsageError
from fastvhost.control.units import format_cores

# A core that other work keeps busier than this loses a fifth of a worker's rounds, and its guests notice.
BUSY_PERCENT = 20.0
# Long enough for a tick-based figure to mean something (10 ms ticks), short enough for a start below one second.
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class CorePlan:
    """Where threads go: one entry per worker, and the cores left to the control plane."""

    worker_cores: tuple[int | None, ...]
    """None: the worker is not pinned."""
    control_cores: frozenset[int]
    allowed: frozenset[int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostState:
    """What the plan is made from, so that a test can invent a host."""

    present: frozenset[int]
    allowed: frozenset[int]
    busy: Mapping[int, float]
    """Percent, by core number."""
    current_core: int

    def busy_percent(self, core: int) -> float:
        """How busy a core was, 0 where nothing is known."""
        return self.busy.get(core, 0.0)


def observe() -> HostState:
    """Look at this host for a tenth of a second."""
    percents = psutil.cpu_percent(interval=SAMPLE_SECONDS, percpu=True)
    present = _present_cores(len(percents))
    return HostState(
        present=present,
        allowed=frozenset(os.sched_getaffinity(0)),
        busy=dict(zip(sorted(present), percents, strict=False)),
        current_core=psutil.Process().cpu_num(),
    )


def plan_cores(asked: Sequence[int], host: HostState) -> CorePlan:
    """Place the workers: where asked, or one worker on the quietest core that leaves another to the control plane."""
    if not asked:
        return _default_plan(host)
    if missing := [core for core in asked if core not in host.present]:
        raise UsageError(f"--cores: this host has no core {missing[0]}; it has {format_cores(host.present)}")
    warnings: list[str] = []
    workers: list[int | None] = []
    for core in asked:
        if core in host.allowed or _may_pin(core):
            workers.append(core)
        else:
            workers.append(None)
            warnings.append(
                f"core {core} is not allowed to this process, its worker is not pinned; allowed are "
                f"{format_cores(host.allowed)}: choose among them or widen AllowedCPUs= of the service"
            )
    for core in sorted({core for core in asked if list(asked).count(core) > 1}):
        warnings.append(
            f"{list(asked).count(core)} workers share core {core} and get a part of it each; name each core once"
        )
    for core in sorted({core for core in workers if core is not None}):
        if (percent := host.busy_percent(core)) >= BUSY_PERCENT:
            warnings.append(busy_sentence(core, percent))
    control = host.allowed - frozenset(asked)
    if not control:
        control = host.allowed
        warnings.append(
            f"no core is left to the control plane, it shares {format_cores(control)}; leave one out of --cores"
        )
    return CorePlan(tuple(workers), control, host.allowed, tuple(warnings))


def _default_plan(host: HostState) -> CorePlan:
    if len(host.allowed) == 1:
        (core,) = host.allowed
        warning = (
            f"core {core} is the only one allowed, worker and control plane share it; allow this process a second one"
        )
        return CorePlan((None,), host.allowed, host.allowed, (warning,))
    # Quietest first; among equals the highest, because interrupts and most programs start at core 0.
    core = min(host.allowed - {host.current_core}, key=lambda number: (round(host.busy_percent(number), -1), -number))
    percent = host.busy_percent(core)
    warnings = (busy_sentence(core, percent),) if percent >= BUSY_PERCENT else ()
    return CorePlan((core,), host.allowed - {core}, host.allowed, warnings)


def busy_sentence(core: int, percent: float) -> str:
    """The warning about a core that others use, with the busiest of them by name where one is found."""
    busy = f"core {core} is {percent:.0f} % busy with other work{_who(core)}"
    return f"{busy}; move that away or choose another core with --cores"


def _who(core: int) -> str:
    """The program that runs on a core now, as a bracketed remark."""
    names = []
    for process in psutil.process_iter(["name", "cpu_num", "status"]):
        info = process.info
        if info["cpu_num"] == core and info["status"] == psutil.STATUS_RUNNING and process.pid != os.getpid():
            names.append(f"{info['name']}, pid {process.pid}")
    return f" ({names[0]})" if names else ""


def _present_cores(count: int) -> frozenset[int]:
    """Cores that are online; their numbers may have holes."""
    try:
        text = Path("/sys/devices/system/cpu/online").read_text().strip()
    except OSError:
        return frozenset(range(count))
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def _may_pin(core: int) -> bool:
    """Whether the kernel lets a thread go there: a cpuset may be wider than the affinity we were started with."""
    answer: list[bool] = []

    def attempt() -> None:
        try:
            os.sched_setaffinity(0, {core})
        except OSError:
            answer.append(False)
        else:
            answer.append(True)

    thread = threading.Thread(target=attempt, name="core-probe")
    thread.start()
    thread.join()
    return answer == [True]
