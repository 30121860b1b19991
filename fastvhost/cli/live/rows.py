"""What `fastvhost top` shows, computed from two answers of a fwd. It knows no terminal, no key and no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastvhost.cli.output import printable
from fastvhost.control.stats import COUNTED, with_rates

Answer = Mapping[str, Any]
"""What the control socket tells to "top" (control.live_figures)."""
MOST = 1 << 64
SIDES = (("rx_dropped", "from"), ("tx_dropped", "towards"))


@dataclass(frozen=True, slots=True)
class PortRow:
    """One port. What is None is not known: of one reading there are no rates, a port without a guest has no rings."""

    number: int
    name: str
    kind: str
    link: str
    rx_frames: int
    tx_frames: int
    dropped: int
    rx_rate: float | None
    """Frames a second from the guest."""
    rx_bits: float | None
    tx_rate: float | None
    tx_bits: float | None
    drop_rate: float | None
    call_rate: float | None
    """Notifications of the driver a second."""
    kick_rate: float | None
    free: float | None
    """Share of the receiveq for which the driver gave buffers; of several queues the one with the fewest."""
    queued: float | None
    """Share of the transmitq that is full of frames that no worker took yet; of several queues the fullest."""
    starved: float | None
    """Share of the time in which frames found no buffers; of several queues the one that starved most."""
    broken: int
    """Rings whose driver broke the rules."""

    @property
    def idle(self) -> bool:
        """Whether nothing moved and nothing was dropped."""
        return not (self.rx_rate or self.tx_rate or self.drop_rate)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker."""

    name: str
    core: int | None
    """None: not pinned."""
    last_core: int | None
    busy: float | None
    """Share of the time in which it moved frames."""
    sleep_rate: float | None
    waiting: int


@dataclass(frozen=True, slots=True)
class DropRow:
    """Frames of one port and side that went no further, for one reason."""

    port: str
    side: str
    """from: taken from the port's guest; towards: meant for it."""
    reason: str
    rate: float | None
    total: int


@dataclass(frozen=True, slots=True)
class Reading:
    """All of it."""

    version: str
    uptime: float
    seconds: float
    """Over which rates are; 0: there are none."""
    ports: tuple[PortRow, ...]
    workers: tuple[WorkerRow, ...]
    drops: tuple[DropRow, ...]

    def sum(self, figure: str) -> float | None:
        """Of all ports; None without rates."""
        known = [value for value in (getattr(port, figure) for port in self.ports) if value is not None]
        return sum(known) if self.seconds else None


def reading(now: Answer, before: Answer | None) -> Reading:
    """Raises LookupError, TypeError or ValueError where an answer is not a fwd's."""
    if before is not None and before["started"] != now["started"]:
        before = None  # another fwd took its place: its counters began at 0
    rates = with_rates(dict(now), None if before is None else dict(before)).get("rates")
    rates = rates or {"seconds": 0.0, "ports": {}, "workers": {}}
    seconds = rates["seconds"]
    was: Mapping[str, Any] = before["ports"] if before is not None and seconds else {}
    # A port that was made anew has no rates, as one that is new.
    went_on = {name: was[name] for name in rates["ports"]}
    return Reading(
        printable(str(now["version"])),
        _number(now["uptime"]),
        seconds,
        tuple(
            _port(name, port, rates["ports"].get(name), went_on.get(name), seconds)
            for name, port in now["ports"].items()
        ),
        tuple(_worker(name, worker, rates["workers"].get(name)) for name, worker in now["workers"].items()),
        tuple(row for name, port in now["ports"].items() for row in _drops(name, port, went_on.get(name), seconds)),
    )


def _port(name: str, now: Answer, rate: Mapping[str, float] | None, before: Answer | None, seconds: float) -> PortRow:
    for key in COUNTED:
        _number(now[key])
    rings, had = now.get("rings"), (before or {}).get("rings")
    rate = rate or {}
    return PortRow(
        _number(now["number"]),
        printable(name),
        printable(now["kind"]),
        printable(now["link"]),
        now["rx_frames"],
        now["tx_frames"],
        sum(_number(count) for key, _ in SIDES for count in now[key].values()),
        rate.get("rx_frames"),
        rate.get("rx_bits"),
        rate.get("tx_frames"),
        rate.get("tx_bits"),
        rate["rx_dropped"] + rate["tx_dropped"] if rate else None,
        _growth(now["calls"], before["calls"], seconds) if before else None,
        _growth(rings["kicks"], had["kicks"], seconds) if rings and had else None,
        _share(rings["free"]) if rings else None,
        _share(rings["queued"]) if rings else None,
        _starved(rings["starved"], had["starved"], seconds) if rings and had else None,
        _number(rings["broken"]) if rings else 0,
    )


def _starved(now: Mapping[str, float], before: Mapping[str, float], seconds: float) -> float:
    growths = (_growth(value, before.get(pair, 0.0), seconds) for pair, value in now.items())
    return min(1.0, max(growths, default=0.0))


def _worker(name: str, now: Answer, rate: Mapping[str, float] | None) -> WorkerRow:
    core, last = (None if now[key] is None else _number(now[key]) for key in ("core", "last_core"))
    busy = min(1.0, max(0.0, rate["busy"])) if rate else None
    return WorkerRow(printable(name), core, last, busy, rate["sleeps"] if rate else None, _number(now["waiting"]))


def _drops(name: str, now: Answer, before: Answer | None, seconds: float) -> Iterator[DropRow]:
    for key, side in SIDES:
        for reason, count in now[key].items():
            rate = _growth(count, before[key].get(reason, 0), seconds) if before else None
            yield DropRow(printable(name), side, printable(reason), rate, _number(count))


def _growth(now: float, before: float, seconds: float) -> float:
    """A second. A counter that fell began anew, with a guest that connected again, say."""
    now = _number(now)
    return float(now - before if now >= before else now) / seconds


def _share(value: float) -> float:
    return float(min(1.0, _number(value)))


def _number(value: Any) -> Any:
    """The same. What answers may be no fwd: a text, or a number that cannot be printed, is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
        raise ValueError(f"{value!r} is no figure")
    return value
