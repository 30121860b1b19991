"""fwd as a service: what systemd is told, and what `systemctl status` says of the ports.

The manager restarts fwd where it hears nothing for WatchdogSec=. It hears of it while the main thread and every worker
make rounds.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from fastvhost.cli.output import printable
from fastvhost.cli.text import si
from fastvhost.control.rounds_watch import STUCK_SECONDS, RoundsWatch, Stuck
from fastvhost.control.service_manager import MAX_WAIT, ServiceManager
from fastvhost.control.switch import Switch

log = logging.getLogger("fastvhost")
STATUS_SECONDS = 10.0
BEATS = 3
"""Times that it is told in the time after which it would restart fwd."""
REFUSED = "the last reload changed nothing, the log says why"
NAMES = 3
"""The most ports that a status names."""


class Totals(NamedTuple):
    """What all ports together received and dropped, at one moment."""

    time: float
    frames: int
    bytes: int
    dropped: int


class Reports:
    """Of a running switch, from its main thread."""

    def __init__(self, manager: ServiceManager, switch: Switch, now: float) -> None:
        self._manager = manager
        self._switch = switch
        # The log names the worker before the manager restarts fwd for it.
        told_after = min(STUCK_SECONDS, manager.watchdog / 2) if manager.watchdog else STUCK_SECONDS
        self._rounds = RoundsWatch(switch.wiring.workers, now, told_after)
        self._totals = self._count(now)
        self._status_at = self._beat_at = now
        self._status = ""
        """The last one, where it is not a part of ready()."""
        self._complained = ""
        self._to_repeat = False
        self._complain()

    def ready(self, note: str = "", seconds: float = MAX_WAIT) -> None:
        """All ports listen, or a reload has ended. Said again by look() until the manager has taken it."""
        self._to_repeat, self._status = self._manager.listens, ""
        self._to_repeat = self._manager.listens and not self._manager.ready(self._line(note), seconds)
        self._complain()

    def look(self, now: float) -> None:
        """To be called every half second: whether workers make rounds, and what the manager is to hear."""
        found = self._rounds.look(now)
        for one in found:
            self._tell_of(one)
        if not self._manager.listens:
            return
        if self._to_repeat:
            self.ready(seconds=0.0)
        watchdog = self._manager.watchdog
        if watchdog and now >= self._beat_at and self._rounds.take():
            self._manager.alive()
            self._beat_at = now + watchdog / BEATS
        if found or now >= self._status_at:
            self._status_at = now + STATUS_SECONDS
            self._tell_status(now)

    def reloading(self) -> None:
        """The configuration is read anew, and put into effect."""
        self._manager.reloading()

    def reloaded(self, done: bool) -> None:
        """The end of that. A manager cannot be told that nothing was changed, so for a while the status says it."""
        self._status_at = time.monotonic() + STATUS_SECONDS
        self.ready("" if done else REFUSED)

    def stopping(self, why: str) -> None:
        """The end begins."""
        self._manager.stopping(printable(why))

    def _tell_of(self, one: Stuck) -> None:
        fields = {"worker": one.worker, "about": "stuck"}
        if not one.seconds:
            log.warning("%s makes rounds again", one.worker, extra=fields)
            return
        limit = self._manager.watchdog
        then = f"; systemd restarts fwd after {limit:g} s of this" if limit else ""
        why = "it has no core to run on" if one.lacks_core else f"it waits in the kernel, or loops{then}"
        log.error("%s has made no round for %.0f s, %s", one.worker, one.seconds, why, extra=fields)

    def _tell_status(self, now: float) -> None:
        before, self._totals = self._totals, self._count(now)
        line = self._line(rates(before, self._totals))
        if line != self._status and self._manager.status(line):
            self._status = line

    def _count(self, now: float) -> Totals:
        received = [(totals[0], totals[1], totals[4] + totals[5]) for totals in self._port_totals()]
        frames, size, dropped = map(sum, zip(*received, strict=True)) if received else (0, 0, 0)
        return Totals(now, frames, size, dropped)

    def _port_totals(self) -> list[tuple[int, int, int, int, int, int]]:
        return [unit.port.totals() for unit in self._switch.wiring.ports]

    def _line(self, more: str) -> str:
        units = self._switch.wiring.ports
        down = [unit.spec.name for unit in units if not unit.port.link_up]
        stuck = self._rounds.stuck
        return "; ".join(filter(None, [f"{', '.join(stuck)} stuck" * bool(stuck), ports(len(units), down), more]))

    def _complain(self) -> None:
        if self._manager.trouble and self._manager.trouble != self._complained:
            self._complained = self._manager.trouble
            log.warning("%s", self._complained)


def ports(number: int, down: list[str]) -> str:
    """How many ports are up, and which are down."""
    some = ", ".join(down) if len(down) <= NAMES else ""
    names = f" ({some} down)" if some else ""
    return printable(f"{number - len(down)} of {number} ports up{names}")


def rates(before: Totals, now: Totals) -> str:
    """What all ports together received and dropped, a second. A port that was made anew counts from 0 again."""
    seconds = max(now.time - before.time, 1e-3)
    frames, size, dropped = (max(0, new - old) / seconds for new, old in zip(now[1:], before[1:], strict=True))
    lost = f", {si(dropped)} dropped/s" if dropped >= 0.5 else ""
    return f"{si(frames)} frames/s, {si(size * 8, 'bit/s')}{lost}"
