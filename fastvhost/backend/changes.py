"""What a message of a front-end changes, from its handler to the moment when no worker sees the state before.

A handler writes down what is to be (the port's setters do, between begin() and its commit), and what is to follow: to
close what is not used any more, to answer. Then the workers of the port come to the door and all of it takes effect.
Where one does not come, everything waits as it is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from fastvhost.backend import foreign_files
from fastvhost.backend.budget import Bucket
from fastvhost.backend.port_api import PortApi

MAX_WAIT = 0.02
"""Seconds until a worker that does not come makes a message wait."""
FIRST_RETRY, LAST_RETRY = 0.01, 0.1
"""Seconds between two attempts."""
DOORS_AT_ONCE, DOORS_A_SECOND = 1024, 100
"""Changes that workers come to the door for: a port with 128 queue pairs starts with about 500."""
MESSAGES_AT_ONCE, MESSAGES_A_SECOND = 8192, 2000
"""Its front-end sends about 2000 messages for that."""


class Changes:
    """The changes of one port, whatever front-end it has. Of its control thread alone."""

    def __init__(self, port: PortApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._then: list[Callable[[], None]] = []
        self._wait = FIRST_RETRY
        self._doors = Bucket(DOORS_AT_ONCE, DOORS_A_SECOND, clock)
        self._counted = port.doors
        self._messages = Bucket(MESSAGES_AT_ONCE, MESSAGES_A_SECOND, clock)
        self.waits_since: float | None = None
        """Since when a worker keeps a change waiting, on the clock."""
        self.due: float | None = None
        """When settle() is to be tried again."""

    @property
    def settled(self) -> bool:
        """Whether all that was begun has taken effect."""
        return self.waits_since is None

    @property
    def is_due(self) -> bool:
        """Whether it is time for settle() once more."""
        return self.due is not None and self._clock() >= self.due

    @property
    def late(self) -> str:
        """Which worker does not come, in a sentence."""
        return self._port.late

    @property
    def allowed_at(self) -> float | None:
        """When the next message may be taken, None for now: the port has spent its share of the workers' time."""
        times = [bucket.ready_at for bucket in (self._doors, self._messages) if bucket.ready_at is not None]
        return max(times, default=None)

    @property
    def overdone(self) -> str:
        """What its front-end does more often than its share lets through, in words; empty: nothing."""
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
        """Whether half of its share, or more, is there to be spent again."""
        return self._doors.at_rest and self._messages.at_rest

    def begin(self) -> None:
        """What follows, up to settle(), is one change."""
        self._port.begin()

    def count_message(self) -> None:
        """One more message came."""
        self._messages.take()

    def then(self, act: Callable[[], None]) -> None:
        """Done in this order once no worker sees the state before."""
        self._then.append(act)

    def close_fd(self, fd: int) -> None:
        """Close a file descriptor that workers may still use. -1 is none."""
        if fd >= 0:
            self.then(lambda: foreign_files.close(fd))

    def settle(self) -> bool:
        """Have it take effect, and do what follows. False: not yet, a worker does not come; `due` says when again.

        Raises what the first of those acts raised that failed, after all of them.
        """
        if not self._port.commit(MAX_WAIT if self.settled else 0.0):
            now = self._clock()
            self.due = now + self._wait
            self._wait = min(LAST_RETRY, self._wait * 2)
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
