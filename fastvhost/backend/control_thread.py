"""The control side of a port with virtqueues: a thread that serves one front-end at a time, over whatever protocol.

The thread sleeps in one poll() over everything that concerns its port: the socket or device file of its front-end, kick
file descriptors that wait for their first kick, the fd by which workers report news, and the fd by which it is told to
stop. It never waits for a peer.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from fastvhost.backend import advice, foreign_files, quota
from fastvhost.backend.back_off import BackOff
from fastvhost.backend.changes import Changes
from fastvhost.backend.logbook import Line, Logbook
from fastvhost.backend.narrative import Narrative, View
from fastvhost.backend.port_api import PortApi
from fastvhost.dataplane.door import WorkerStuckError
from fastvhost.dataplane.notifier import NotificationsStuckError
from fastvhost.dataplane.threads import Thread

PAUSE = 0.25
"""Seconds without accepting where there was no room for a connection, and of pause after an internal error."""
TELL_AFTER = 1.0
"""Seconds that a worker may keep a port waiting before the log says so."""


class ControlThread(ABC):
    """Opened, started and stopped by the switch. A subclass speaks the protocol."""

    def __init__(self, port: PortApi, narrative: Narrative) -> None:
        self._port = port
        self._narrative = narrative
        self._logbook = Logbook(port.name)
        self._wake = -1
        self._wake_lock = threading.Lock()
        self._stop: Future[None] = Future()
        """Has a result once the thread is to end: its waits end then."""
        self._thread: threading.Thread | None = None
        self._quota = quota.Quota()
        self._changes = Changes(port)
        self._told_waiting = self._told_overdone = False
        self._back_off = BackOff()
        self._holds: deque[tuple[str, float, bool]] = deque()
        self.defects = 0
        """Errors of ours that ended a connection. The thread outlives them."""

    @abstractmethod
    def _take(self) -> None:
        """Make the socket or device file that front-ends open. Raises ServiceError, one sentence."""

    @abstractmethod
    def _register(self, poller: select.poll, now: float) -> Iterable[float | None]:
        """Register what poll() waits for. Returns the times, on the monotonic clock, at which it must end."""

    @abstractmethod
    def _serve(self, ready: dict[int, int]) -> None:
        """Deal with the file descriptors that poll() found ready."""

    @abstractmethod
    def _view(self) -> View:
        """What the narrative needs to name a missing step. Called only while there is a front-end."""

    @abstractmethod
    def _drop(self, reason: str, level: int = logging.INFO) -> None:
        """End the front-end that is there, if any."""

    def _settle(self) -> None:
        """Try again to put a change into effect that a worker kept waiting."""
        self._changes.settle()

    def _tell_waiting(self, now: float) -> None:
        """Log once which worker does not come to the door, and once when it has come."""
        since = self._changes.waits_since
        if since is None and self._told_waiting:
            self._logbook.write(Line(logging.WARNING, "the worker is back, this port goes on", "defects"))
            self._told_waiting = False
        elif since is not None and not self._told_waiting and now >= since + TELL_AFTER:
            self._logbook.write(Line(logging.ERROR, f"{self._changes.late}; this port waits for it", "defects"))
            self._told_waiting = True

    def _tell_overdone(self) -> None:
        """Log that messages wait because the port has spent its share; again only after half of it was there again."""
        if self._changes.is_calm:
            self._told_overdone = False
        elif not self._told_overdone and (overdone := self._changes.overdone):
            self._told_overdone = True
            self._logbook.write(Line(logging.WARNING, f"the front-end {overdone}; {advice.OVERDONE}", "share"))

    def memory_holds(self, worker: str, seconds: float, *, too_much: bool) -> None:
        """The guest's memory kept a worker waiting: `seconds` in one visit; too_much: `seconds` of the last 5.

        From any thread; returns at once. The control thread does what follows.
        """
        self._holds.append((worker, seconds, too_much))
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _judge(self) -> None:
        """End the front-end whose memory kept workers waiting for too long, and take none for a while."""
        while self._holds:
            worker, seconds, too_much = self._holds.popleft()
            if not too_much:
                words = f"the guest's memory kept {worker} waiting for {seconds * 1000:.0f} ms; {advice.HELD}"
                self._logbook.write(Line(logging.WARNING, words, "held"))
            elif self._back_off.ends_at is None:
                wait = self._back_off.begin()
                kept = f"kept {worker}, and all its guests, waiting for {seconds:.1f} of the last 5 s"
                words = f"the guest's memory {kept}; {advice.HELD}; no front-end is taken for {wait:g} s"
                self._drop(words, logging.ERROR)

    @property
    def _engaged(self) -> bool:
        """Whether a worker may still use the state of the last front-end."""
        return not self._changes.settled

    @abstractmethod
    def _let_go(self) -> None:
        """Give back what _take() took. Idempotent."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What `fastvhost show` tells. From any thread."""

    def open(self) -> None:
        """Make the socket or device file that front-ends open, see _take(). Raises ServiceError, one sentence."""
        self._take()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._narrative.waiting()
        self._log()

    def start(self) -> None:
        """Serve front-ends in a thread of its own until stop()."""
        thread = Thread(target=self._run, name=f"control {self._port.name}", daemon=True)
        thread.start()
        self._thread = thread

    def withdraw(self) -> None:  # noqa: B027 - a port without a path of its own has nothing to remove
        """The first step of a stop: take no more front-ends, remove the path. From any thread; does not wait."""

    def stop(self, timeout: float) -> None:
        """Stop the rings, close everything. Raises TimeoutError when the thread does not end."""
        if not self._stopping:
            self._stop.set_result(None)
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"the control thread of port {self._port.name} did not end in {timeout:g} s")
            self._thread = None
        self._shut()
        with self._wake_lock:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    @property
    def unsettled(self) -> bool:
        """Whether, after stop(), files of its front-end still wait for a worker: another stop() closes them then."""
        return not self._changes.settled

    @property
    def _stopping(self) -> bool:
        return self._stop.done()

    def _run(self) -> None:
        foreign_files.give_up_with(self._stop)
        quota.use(self._quota)
        while not self._stopping:
            try:
                self._turn()
                self._log()
            except Exception as error:
                self._survive(error)
        self._shut()

    def _survive(self, error: Exception) -> None:
        """An internal error ends this front-end's connection and disturbs nobody else."""
        self.defects += 1
        logging.getLogger("fastvhost").debug("port %s", self._port.name, exc_info=error)
        with contextlib.suppress(Exception):
            self._drop(f"internal error {type(error).__name__}: {error}", logging.ERROR)
        with contextlib.suppress(Exception):
            self._log()
        # What failed at once may fail at once again.
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.poll(PAUSE * 1000)

    def _turn(self) -> None:
        """Wait for anything and deal with it once."""
        now = time.monotonic()
        if self._changes.is_due:
            self._settle()
        self._tell_waiting(now)
        tend_at = self._tend(now)
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._port.attention_fd, select.POLLIN)
        deadlines = [*self._register(poller, now), self._narrative.deadline, self._changes.due, tend_at]
        first = min((when for when in deadlines if when is not None), default=None)
        # Rounded up: woken before that time, it would only wait again.
        timeout = None if first is None else max(0, math.ceil((first - now) * 1000))
        ready = dict(poller.poll(timeout))
        if self._wake in ready and not self._stopping:
            os.eventfd_read(self._wake)
        self._tell_overdone()  # before _serve(), which may spend the whole share
        self._serve(ready)
        self._tell_overdone()
        self._judge()
        self._narrative.tick(self._view)

    def _tend(self, now: float) -> float | None:
        """Let the port look after its notify thread, where it has one. Returns when to do so again."""
        try:
            return self._port.tend(now)
        except NotificationsStuckError as error:
            self._drop(str(error), logging.ERROR)
            self._log()  # now: the next poll() may wait for long
            return None

    def _log(self) -> None:
        for line in self._narrative.take():
            self._logbook.write(line)

    def _shut(self) -> None:
        try:
            self._drop("stopping")
            if not self._changes.settled and not self._changes.settle() and not self.defects:
                raise WorkerStuckError(self._changes.late)
        except Exception as error:
            self.defects += 1
            self._logbook.write(
                Line(logging.ERROR, f"did not stop cleanly: {type(error).__name__}: {error}", "defects")
            )
        self._let_go()
        self._log()
