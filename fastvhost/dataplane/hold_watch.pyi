"""Finds workers that wait in the kernel for a page, and the port whose memory it is."""

from collections.abc import Sequence
from typing import NamedTuple

from fastvhost.dataplane.worker import Worker

class Hold(NamedTuple):
    """A worker waited in the kernel for a port's memory."""

    worker: str
    port: str
    seconds: float
    """Seconds that were not reported before."""
    visit: int
    """A number of that worker's visit: the same in all reports about it."""

class HoldWatch:
    """Watches workers. For a thread of its own, which may block on guests' memory like a worker.

    Make it after the workers' wires were added, before they are closed. Raises ValueError otherwise, OSError where
    resources are missing.
    """

    def __init__(self, workers: Sequence[Worker]) -> None: ...
    def meet(self, seconds: float) -> bool:
        """Wait until all workers run, and open the file with the state of each thread. False: not within `seconds`.

        Otherwise wait() opens them as workers start. Not to be called while wait() runs.
        """
    def wait(self) -> list[Hold]:
        """Wait until a worker is held by a port's memory. Empty: stop() was called. Releases the GIL.

        One thread at a time: raises ValueError in another one.
        """
    def stop(self) -> None:
        """From any thread. Makes wait() return, at once or, where it is held itself, when its page has come."""
