"""The host: its cores, which of them are allowed and busy, and so where workers go.

Also what this user may do on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fastvhost.backend.foreign_text import printable
from fastvhost.control import affinity
from fastvhost.control.errors import UsageError
from fastvhost.control.units import format_cores
from fastvhost.dataplane.threads import Thread

# Percent. On a core that other work keeps this busy a worker loses a fifth of its rounds, and its guests notice.
BUSY_PERCENT = 20.0
# Long enough for a tick-based figure to mean something (10 ms ticks), short enough for a start below one second.
SAMPLE_SECONDS = 0.1
PR_GET_TIMERSLACK = 30
# Faults of a directory in which sockets are to be made.
MISSING = "no such directory"
READ_ONLY = "not writable for this user"


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
    """What the plan depends on. Tests make up a host."""

    present: frozenset[int]
    allowed: frozenset[int]
    busy: Mapping[int, float]
    """Percent, by core number. Empty where /proc/stat cannot be read."""
    current_core: int | None
    users: Mapping[int, str] = field(default_factory=dict)
    """The program that keeps a busy core busy, where one stands out."""

    def busy_percent(self, core: int) -> float:
        """How busy a core was, 0 where nothing is known."""
        return self.busy.get(core, 0.0)

    def busy_warnings(self, cores: Iterable[int]) -> list[str]:
        """A sentence for each of these cores that others use."""
        return [
            f"core {core} is {self.busy[core]:.0f} % busy with other work{self.users.get(core, '')}; "
            "move that away or choose another core with --cores"
            for core in cores
            if self.busy_percent(core) >= BUSY_PERCENT
        ]


def observe() -> HostState:
    """Sample this host for a tenth of a second; twice where a core is busy, since one busy sample may be a blip."""
    busy = _sample()
    users: dict[int, str] = {}
    if max(busy.values(), default=0.0) >= BUSY_PERCENT:
        before = _cpu_seconds()
        busy = {core: min(percent, busy.get(core, 0.0)) for core, percent in _sample().items()}
        users = _users(before)
    return HostState(
        present=frozenset(busy) or _present_cores(os.cpu_count() or 1),
        allowed=affinity.allowed(),
        busy=busy,
        current_core=affinity.last_core(),
        users=users,
    )


def _sample() -> dict[int, float]:
    """Percent busy by core; empty where this process may not read /proc/stat (ProcSubset=pid of a unit)."""
    try:
        percents = psutil.cpu_percent(interval=SAMPLE_SECONDS, percpu=True)
    except (OSError, psutil.Error):
        return {}
    return dict(zip(sorted(_present_cores(len(percents))), percents, strict=False))


def _cpu_seconds() -> dict[psutil.Process, float]:
    """CPU time so far of every process that can be looked at."""
    seconds: dict[psutil.Process, float] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process] = times.user + times.system
    return seconds


def _users(before: Mapping[psutil.Process, float]) -> dict[int, str]:
    """By core, the program that used most CPU time since then, in brackets."""
    used = {process: seconds - before.get(process, seconds) for process, seconds in _cpu_seconds().items()}
    users: dict[int, str] = {}
    for process in sorted(used, key=lambda process: used[process], reverse=True):
        if used[process] * 100 / SAMPLE_SECONDS < BUSY_PERCENT:
            break
        with contextlib.suppress(psutil.Error):
            users.setdefault(process.cpu_num(), f" ({printable(process.name())}, pid {process.pid})")
    return users


def plan_cores(asked: Sequence[int], host: HostState, most: int | None = None) -> CorePlan:
    """Place the workers: where asked, or one worker on the quietest core that leaves another to the control plane.

    most: no more workers than this, since a worker with nothing to do would only waste a core.
    """
    if not asked:
        return _default_plan(host)
    if missing := [core for core in asked if core not in host.present]:
        raise UsageError(f"--cores: this host has no core {missing[0]}; it has {format_cores(host.present)}")
    warnings: list[str] = []
    if spare := asked[most:] if most else ():
        warnings.append(
            f"these ports have work for {most} of the {len(asked)} workers asked for, none is started for core "
            f"{', '.join(map(str, spare))}; leave the last {len(spare)} out of --cores, or give ports more queue pairs "
            "(queues=N)"
        )
        asked = asked[:most]
    workers: list[int | None] = []
    for core in asked:
        if core in host.allowed or may_pin(core):
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
    warnings += host.busy_warnings(sorted({core for core in workers if core is not None}))
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
    return CorePlan((core,), host.allowed - {core}, host.allowed, tuple(host.busy_warnings((core,))))


def _present_cores(count: int) -> frozenset[int]:
    """The numbers of the cores that are online."""
    try:
        text = Path("/sys/devices/system/cpu/online").read_text().strip()
    except OSError:
        return frozenset(range(count))
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def may_pin(core: int) -> bool:
    """Whether the kernel lets a thread run there. The cpuset may allow more cores than the affinity at the start."""
    answer: list[bool] = []

    def attempt() -> None:
        answer.append(not affinity.pin(0, {core}))

    thread = Thread(target=attempt, name="core-probe")
    with contextlib.suppress(RuntimeError):  # no thread can be made: what comes next reports that
        thread.start()
        thread.join()
    return answer == [True]


CAP_CHOWN, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_BPF = 0, 12, 13, 19, 21, 39
"""Their numbers in linux/capability.h."""


def has_capability(number: int) -> bool:
    """Whether this process has a capability in effect (proc(5), CapEff)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("CapEff:") and int(line.split()[1], 16) >> number & 1 for line in lines)


def proc_fault() -> str:
    """Why no port can serve a guest on this host, with the remedy; or an empty text."""
    if Path("/proc/self/fd").is_dir():
        return ""
    return "/proc is not mounted: what guests hand over cannot be looked at; mount -t proc proc /proc"


def naps_fault() -> str:
    """Why naps are longer than asked for; or an empty text. prctl(2), PR_GET_TIMERSLACK"""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_GET_TIMERSLACK) >= 0:
        return ""
    return (
        f"naps take up to 50 us longer, prctl: {os.strerror(ctypes.get_errno())}; allow that system call here, or give "
        "--idle poll"
    )


def directory_fault(directory: Path) -> str:
    """Why this user cannot make sockets there: MISSING, READ_ONLY or the system's error; empty where it can."""
    try:
        if not directory.is_dir():
            return MISSING
    except OSError as error:
        return os.strerror(error.errno or 0)
    # faccessat2(2) asks for the effective user with its capabilities, and old seccomp profiles refuse it. access(2)
    # asks for the real user without any, so that where both are one, what it allows is allowed.
    mode = os.W_OK | os.X_OK
    may = os.access(directory, mode, effective_ids=True) or (
        os.geteuid() == os.getuid() and os.getegid() == os.getgid() and os.access(directory, mode)
    )
    return "" if may else READ_ONLY
