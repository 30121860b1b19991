"""The watch thread: notices that a worker waits for a guest's memory, and tells that guest's port."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from fastvhost.control.held_time import HeldTime
from fastvhost.dataplane.threads import Thread

log = logging.getLogger("fastvhost")


MEET_SECONDS = 2.0
"""Seconds that the start waits for the workers to run: before front-ends are served, who may use up descriptors."""


class Held(Protocol):
    """fastvhost.dataplane.hold_watch.Hold."""

    @property
    def worker(self) -> str: ...
    @property
    def port(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def visit(self) -> int: ...


class AnyWatch(Protocol):
    """fastvhost.dataplane.hold_watch.HoldWatch."""

    def meet(self, seconds: float) -> bool: ...
    def wait(self) -> Sequence[Held]: ...
    def stop(self) -> None: ...


@runtime_checkable
class Judged(Protocol):
    """A service whose port uses a guest's memory."""

    def memory_holds(self, worker: str, seconds: float, *, too_much: bool) -> None:
        """From any thread, at once."""


class WatchThread(Thread):
    """Charges each port with the time for which its memory kept a worker waiting."""

    def __init__(self, watch: AnyWatch, services: Mapping[str, Judged]) -> None:
        # A daemon: like a worker, it may block on a guest's memory.
        super().__init__(target=self._look_on, name="watch", daemon=True)
        self._watch = watch
        self._ports = {name: (service, HeldTime()) for name, service in services.items()}
        self._stopping = False
        self._failed = False

    def _look_on(self) -> None:
        """Until stop()."""
        while not self._stopping:
            try:
                for hold in self._watch.wait():
                    self._charge(hold)
            except Exception as error:
                if not self._failed:
                    log.exception("the watch over the workers: internal error %r; please report it", error)
                self._failed = True
                time.sleep(1.0)  # what failed at once may fail at once again

    def _charge(self, hold: Held) -> None:
        if self._stopping or hold.port not in self._ports:
            return
        service, held = self._ports[hold.port]
        judgement = held.add(time.monotonic(), hold.seconds, hold.visit)
        if judgement:
            service.memory_holds(hold.worker, judgement.seconds, too_much=judgement.too_much)

    def stop(self) -> None:
        """Ask it to end, which it does at once unless it is blocked itself."""
        self._stopping = True
        self._watch.stop()
