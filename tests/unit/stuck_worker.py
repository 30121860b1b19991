"""A worker that can be made to wait in the kernel, so that it does not come to the door, and be released."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import NullPort, Port
from fastvhost.dataplane.ports.tap import TapPort
from fastvhost.dataplane.worker import Worker


class StuckWorker:
    """It runs, and reads a pipe in each round, which waits when the pipe is made to block.

    ports: it owns a lane from each of them. to: and one that leads there. worker: one that has its lanes already.
    """

    def __init__(
        self, door: Door, name: str, *ports: Port, to: Port | None = None, worker: Worker | None = None
    ) -> None:
        self.worker = worker or Worker(door, name)
        self._end, self._other = os.pipe()
        os.set_blocking(self._end, False)
        tap = TapPort(f"pipe of {name}", door)
        tap.attach([self._end])
        self.worker.add_wire(tap, NullPort("nobody"), hold=False, hold_timeout_ms=1)
        for port in ports:
            self.worker.add_wire(port, None, hold=False, hold_timeout_ms=1)
        if to is not None:
            self.worker.add_wire(NullPort("its sender"), to, hold=False, hold_timeout_ms=1)
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()
        self._until(lambda: self.worker.rounds > 0)

    def stick(self) -> None:
        """Returns once it waits in the kernel."""
        os.set_blocking(self._end, True)
        self._until(lambda: self._state() == "S")

    def let_go(self) -> None:
        os.set_blocking(self._end, False)
        os.write(self._other, bytes(60))

    def let_go_in_a_while(self) -> threading.Thread:
        """Call it in another thread, which needs the GIL a few times before."""

        def let_go() -> None:
            for _ in range(20):
                time.sleep(0.001)
            self.let_go()

        return threading.Thread(target=let_go)

    def close(self) -> None:
        self.worker.stop()
        self.let_go()
        self.thread.join(MAX_WAIT)
        assert not self.thread.is_alive()
        self.worker.close()
        os.close(self._end)
        os.close(self._other)

    def _state(self) -> str:
        return Path(f"/proc/self/task/{self.thread.native_id}/stat").read_text().rpartition(") ")[2][0]

    @staticmethod
    def _until(condition) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + MAX_WAIT
        while not condition():
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.001)
