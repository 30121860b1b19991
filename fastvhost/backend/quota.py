"""How much the front-ends of one port may hold up: threads that wait for a file, and files that wait to be closed.

A thread that asks or closes a front-end's file may wait as long as that file's program likes. Each port has a few of
them, and there is a total beyond; with all of them taken, that port is refused what would need another one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TypeVar

from fastvhost.dataplane.threads import Thread

T = TypeVar("T")

PLACES = 4
"""Threads of one port that may wait."""
MOST_THREADS = 512
"""Of all ports."""
MOST_UNCLOSED = 64
"""Files of one port that wait for one of its threads to close them. What comes beyond is closed by the port itself."""

CLOSED_WITHIN = 0.02
"""Seconds for which a port waits for a file of its front-end to be closed, and then goes on without."""

_all_threads = threading.BoundedSemaphore(MOST_THREADS)
_numbers = itertools.count(1)


class NoPlaceError(Exception):
    """All threads of the port, or of all ports, wait already, or the system makes no more. The text says which."""


class Quota:
    """One port's share. Any thread may use it."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        """No other port's."""
        self._lock = threading.Lock()
        self._threads = 0
        self._unclosed: deque[int] = deque()

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Call it in a thread that may be left behind. Raises NoPlaceError, and then nothing was taken."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self._begin(run)
        return future

    def close(self, fds: Sequence[int]) -> None:
        """Close files that may keep whoever closes them waiting: in a thread, or, with too many of them, here.

        They are closed on return as a rule: an honest file takes microseconds.
        """
        done = threading.Event()

        def close() -> None:
            while self._close_one():
                pass
            done.set()

        with self._lock:
            self._unclosed.extend(fds)
        try:
            self._begin(close)
            done.wait(CLOSED_WITHIN)
        except NoPlaceError:
            # A thread that waits now goes on with them, where there is one and they do not become too many.
            while self._threads == 0 or len(self._unclosed) > MOST_UNCLOSED:
                if not self._close_one():
                    return

    def _close_one(self) -> bool:
        with self._lock:
            if not self._unclosed:
                return False
            fd = self._unclosed.popleft()
        with contextlib.suppress(OSError):
            os.close(fd)
        return True

    def _begin(self, work: Callable[[], None]) -> None:
        """Do it in a thread, and then close what is to be closed."""
        with self._lock:
            if self._threads >= PLACES:
                raise NoPlaceError("too many files of this port's front-ends do not answer already")
            if not _all_threads.acquire(blocking=False):
                raise NoPlaceError("too many files do not answer already")
            self._threads += 1

        def run() -> None:
            work()
            while not self._left(only_when_done=True):
                self._close_one()

        try:
            Thread(target=run, name="foreign-file", daemon=True).start()
        except BaseException as error:  # RuntimeError, MemoryError: the system has no room for one
            self._left(only_when_done=False)
            raise NoPlaceError(f"no thread can be made to ask a file: {error}") from error

    def _left(self, *, only_when_done: bool) -> bool:
        """Give a thread's place back, in one step with the look at what is to be closed: nothing is left over."""
        with self._lock:
            if only_when_done and self._unclosed:
                return False
            self._threads -= 1
        _all_threads.release()
        return True


_of_nobody = Quota()
_current: ContextVar[Quota] = ContextVar("quota", default=_of_nobody)


def use(quota: Quota) -> None:
    """From now on what this thread does is that port's doing."""
    _current.set(quota)


def current() -> Quota:
    """The port this thread works for."""
    return _current.get()
