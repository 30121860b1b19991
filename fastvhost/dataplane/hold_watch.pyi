"""Which port's memory keeps a worker waiting in the kernel, found by looking on."""

from collections.abc import Sequence
from typing import NamedTuple

from fastvhost.dataplane.worker import Worker

class Hold(NamedTuple):
    """A worker waited in the kernel for a port's memory."""

    worker: str
    port: str
    seconds: float
    """That were not reported before."""
    visit: int
    """The same in each report about one visit of that worker."""

class HoldWatch:
    """Looks on at workers. For a thread of its own, which may have to wait for guests' memory as a worker does.

    After their wires were added, before they are closed. Raises ValueError otherwise, OSError where there is no room.
    """

    def __init__(self, workers: Sequence[Worker]) -> None: ...
    def meet(self, seconds: float) -> bool:
        """Wait until all workers run, and open what tells the state of each; False: not within so many seconds.

        Without it, wait() does that as they come. Not beside wait().
        """
    def wait(self) -> list[Hold]:
        """Until a worker is held by the memory of a port; empty: stop() was called. Releases the GIL.

        One thread at a time: raises ValueError in another one.
        """
    def stop(self) -> None:
        """From any thread. wait() returns at once, unless it is itself held; then when it comes free."""
