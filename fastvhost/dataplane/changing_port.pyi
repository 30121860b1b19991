"""Ports that change at the door.

A setter returns when no worker can see the old state any more. It raises WorkerStuckError (dataplane.door) when a
worker that owns lanes of this port did not come to the door in time; then nothing has changed. It waits without the
GIL.
Within `with port.change():` setters only write down the new state; the end of the block puts all of it into effect
in one step, and an exception in the block drops it. Where nothing changes, workers need not come to the door.
"""

from contextlib import AbstractContextManager
from typing import Self

from fastvhost.dataplane.port import Port

class PortChange:
    """Several setters of a port as one change: put into effect at the end of the block, or not at all.

    Made by ChangingPort.change(). The end of the block raises WorkerStuckError as a setter does.
    """

    def __init__(self, port: ChangingPort, seconds: float) -> None: ...
    def __enter__(self) -> ChangingPort: ...
    def __exit__(self, kind: object, error: object, traceback: object) -> None: ...

class ChangingPort(Port):
    """A port that changes at the door. Made by its kinds."""

    doors: int
    """How often a change of this port took effect at the door."""
    late: str
    """After commit() returned False: one sentence that names the late workers."""
    def change(self, seconds: float = 5.0) -> AbstractContextManager[Self]:
        """seconds: how long the end of the block waits for a worker."""
    def begin(self) -> None:
        """From now on setters only write down the new state, until commit() returns True or discard() is called."""
    def commit(self, seconds: float = 0.0) -> bool:
        """Put the change into effect. False: a worker did not come within `seconds`; the change stays posted.

        It may take effect before the next commit(), as soon as that worker comes; but only after commit() returned True
        may the old state be freed. A setter or discard() in between withdraws it, unless it has taken effect.
        """
    def discard(self) -> None:
        """Drop a change that has not taken effect. Idempotent."""
