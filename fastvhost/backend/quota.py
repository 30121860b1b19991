"""How many threads, and files to be closed, the front-ends of one port may keep waiting.

A thread that asks or closes a front-end's file may wait as long as the program behind that file likes. Each port has a
few such threads, and all ports together have a limit. Where all are waiting, what needs another one is refused.
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
"""The most threads of one port."""
MOST_THREADS = 512
"""The most threads of all ports."""
MOST_UNCLOSED = 64
"""The most files of one port that wait for its threads to close them.

The control thread closes what is beyond itself.
"""

CLOSED_WITHIN = 0.02
"""Seconds that a port waits for files of its front-end to be closed; then it goes on."""

_all_threads = threading.BoundedSemaphore(MOST_THREADS)
_numbers = itertools.count(1)


class NoPlaceError(Exception):
    """The port, or all ports together, have no thread left, or the system makes no more. The text says which."""


class Quota:
    """One port's share. Any thread may use it."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        """A number that no other port has."""
        self._lock = threading.Lock()
        self._threads = 0
        self._unclosed: deque[int] = deque()

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Call it in a thread, which may never return. Raises NoPlaceError, and then it is not called."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        self._begin(run)
        return future

    def close(self, fds: Sequence[int]) -> None:
        """Close files whose close may block: in a thread, or, where too many wait already, in this one.

        On return they are closed as a rule: closing an ordinary file takes microseconds.
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
            # A running thread of this port closes them later; where there is none, or too many files wait, this one
            # does.
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
        """Call work() in a thread, which then closes the files that wait."""
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
        """A thread ends. only_when_done: not while files wait to be closed.

        One step under the lock, so that none is missed.
        """
        with self._lock:
            if only_when_done and self._unclosed:
                return False
            self._threads -= 1
        _all_threads.release()
        return True


_of_nobody = Quota()
_current: ContextVar[Quota] = ContextVar("quota", default=_of_nobody)


def use(quota: Quota) -> None:
    """From now on what this thread does counts for that port."""
    _current.set(quota)


def current() -> Quota:
    """The quota of the port that this thread works for."""
    return _current.get()
