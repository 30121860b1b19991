"""What a message of a front-end changes, from its handler until no worker uses the old state any more.

A handler writes down the new state (by the port's setters, between begin() and settle()) and the acts that follow:
closing what is no longer used, answering. Then the port's workers come to the door, the place between two bursts where
they use nothing of the port's, and all of the new state takes effect. While a worker does not come, the old state holds
and the acts wait.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from fastvhost.backend import foreign_files
from fastvhost.backend.budget import Bucket
from fastvhost.backend.port_api import PortApi

MAX_WAIT = 0.02
"""Seconds that settle() waits for workers. A change for which one has not come by then waits, and its message."""
FIRST_RETRY, LONGEST_RETRY = 0.01, 0.1
"""Seconds between two attempts."""
DOORS_AT_ONCE, DOORS_A_SECOND = 1024, 100
"""Changes for which workers come to the door: how many without a pause, and then a second. A port with 128 queue pairs
needs about 500 to start."""
MESSAGES_AT_ONCE, MESSAGES_A_SECOND = 8192, 2000
"""The same of messages. The front-end of a port with 128 queue pairs sends about 2000 while it starts."""


class Changes:
    """The changes of one port. Only its control thread may use it."""

    def __init__(self, port: PortApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._then: list[Callable[[], None]] = []
        self._wait = FIRST_RETRY
        self._doors = Bucket(DOORS_AT_ONCE, DOORS_A_SECOND, clock)
        self._counted = port.doors
        self._messages = Bucket(MESSAGES_AT_ONCE, MESSAGES_A_SECOND, clock)
        self.waits_since: float | None = None
        """When a worker began to keep a change waiting, on the clock; None: no change waits."""
        self.due: float | None = None
        """When settle() is to be called again, on the clock; None: it need not be."""

    @property
    def settled(self) -> bool:
        """Whether no change waits for a worker."""
        return self.waits_since is None

    @property
    def is_due(self) -> bool:
        """Whether it is time to call settle() again."""
        return self.due is not None and self._clock() >= self.due

    @property
    def late(self) -> str:
        """Which worker does not come, in a sentence."""
        return self._port.late

    @property
    def allowed_at(self) -> float | None:
        """When the next message may be taken, once the port has used up what it may send; None: now."""
        times = [bucket.ready_at for bucket in (self._doors, self._messages) if bucket.ready_at is not None]
        return max(times, default=None)

    @property
    def overdone(self) -> str:
        """What the front-end does more often than its share allows, in words; empty: nothing."""
        if self._doors.ready_at is not None:
            return (
                f"sets up or changes its rings and memory more than {DOORS_A_SECOND} times a second "
                f"({DOORS_AT_ONCE} at once are free)"
            )
        if self._messages.ready_at is not None:
            return f"sends more than {MESSAGES_A_SECOND} messages a second ({MESSAGES_AT_ONCE} at once are free)"
        return ""

    @property
    def is_calm(self) -> bool:
        """Whether at least half of the port's share is there again."""
        return self._doors.at_rest and self._messages.at_rest

    def begin(self) -> None:
        """Begin a change: all that the setters write down before settle() takes effect at once."""
        self._port.begin()

    def count_message(self) -> None:
        """One more message came."""
        self._messages.take()

    def then(self, act: Callable[[], None]) -> None:
        """Call act once no worker uses the old state any more. Acts are called in the order of these calls."""
        self._then.append(act)

    def close_fd(self, fd: int) -> None:
        """Close a file descriptor that workers may still use. -1 is none."""
        if fd >= 0:
            self.then(lambda: foreign_files.close(fd))

    def settle(self) -> bool:
        """Put the change into effect, then call the acts.

        False: a worker has not come; `due` says when to call this again. All acts are called, also after one that
        raised; then the last exception is raised, with those before it as its context.
        """
        if not self._port.commit(MAX_WAIT if self.settled else 0.0):
            now = self._clock()
            self.due = now + self._wait
            self._wait = min(LONGEST_RETRY, self._wait * 2)
            if self.waits_since is None:
                self.waits_since = now
            return False
        self._doors.take(self._port.doors - self._counted)
        self._counted = self._port.doors
        self.waits_since = self.due = None
        self._wait = FIRST_RETRY
        acts, self._then = self._then, []
        with contextlib.ExitStack() as stack:
            for act in reversed(acts):
                stack.callback(act)
        return True
