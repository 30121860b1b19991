"""A worker of the data plane in its thread, on its core."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from fastvhost.control import affinity, core_watch
from fastvhost.control.parts import AnyWorker
from fastvhost.dataplane.threads import Thread

log = logging.getLogger("fastvhost")


class WorkerThread(Thread):
    """A worker in its thread, on its core."""

    def __init__(self, name: str, worker: AnyWorker, core: int | None, allowed: frozenset[int]) -> None:
        # A daemon: a worker that would not stop must not keep the process from ending.
        super().__init__(target=self._work, name=name, daemon=True)
        self.worker = worker
        self.core = core
        self.wires: list[tuple[str, str | None]] = []
        self.failure = ""
        self._allowed = allowed
        self._stopping = False
        self._ran: int | None = None
        """What the kernel counted at the last call of lacks_core()."""

    def _work(self) -> None:
        """Poll until stop()."""
        with contextlib.suppress(OSError):
            # The name that top -H and ps -L show.
            Path("/proc/thread-self/comm").write_text(f"fv-{self.name}")
        reason = affinity.pin(0, self._allowed if self.core is None else {self.core})
        if reason and self.core is not None:
            log.warning("%s: cannot be pinned to core %d, it runs where it may: %s", self.name, self.core, reason)
            self.core = None
        try:
            self.worker.run()
        except Exception as error:
            self.failure = f"{self.name} failed: {error!r}"
        if not self._stopping and not self.failure:
            self.failure = f"{self.name} ended by itself"

    @property
    def core_in_use(self) -> int | None:
        """The core that it is pinned to now, which a cpuset may have changed. None: it is not pinned."""
        cores = affinity.of(self.native_id) if self.core is not None and self.native_id and self.is_alive() else ()
        return self.core if not cores else next(iter(cores)) if len(cores) == 1 else None

    @property
    def last_core(self) -> int | None:
        """The core that it ran on last, None where that is not known."""
        return affinity.last_core(self.native_id) if self.native_id and self.is_alive() else None

    def lacks_core(self) -> bool:
        """Whether it was ready to run since the last call, and did not. False where the kernel does not tell."""
        before = self._ran
        self._ran = core_watch.run_time(self.native_id) if self.native_id else None
        return self._ran is not None and self._ran == before and not affinity.waits(self.native_id or 0)

    def stop(self) -> None:
        """Ask it to end after the burst in hand."""
        self._stopping = True
        self.worker.stop()
