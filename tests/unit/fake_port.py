"""A port that moves no frames and records the calls of a session, and memory that maps nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastvhost.backend.changes import Changes
from fastvhost.backend.memory import MemoryMaker
from fastvhost.dataplane import notify
from fastvhost.dataplane.notifier import NotificationsStuckError
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.queue_view import QueueState
from fastvhost.dataplane.ring_refusal import RingRefusedError


class FakePort:
    """calls: every setter that was called, with its arguments, in order."""

    def __init__(self, name: str = "fake", queue_pairs: int = 1) -> None:
        self.name = name
        self.queue_pairs = queue_pairs
        self.attention_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.calls: list[tuple[Any, ...]] = []
        self.live: dict[int, QueueSetup] = {}
        self.next_avail: dict[int, int] = {}
        self.avail_idx: dict[int, int] = {}
        self.lost: tuple[int, ...] = ()
        """What the next set_memory() returns."""
        self.refusal = ""
        """The text with which the next calls are refused, where they can be."""
        self.error: Exception | None = None
        """An exception that each call raises, though a port should not."""
        self.worker_stuck = False
        """Whether a worker does not come to the door, so that no change takes effect."""
        self.late = "worker7 does not come to the door"
        self.helper = False, 0
        """Whether a thread of this port notifies its driver, and how many more are held."""
        self.doors = 0
        """Changes that took effect and in which a setter was called."""
        self.called_at_begin = 0
        self.link = False
        self.news: list[tuple[str, int, str]] = []
        self.stuck = ""
        """Why its driver cannot be notified."""

    def close(self) -> None:
        os.close(self.attention_fd)

    def happen(self, what: str, index: int = -1, sentence: str = "") -> None:
        """Something a worker found."""
        self.news.append((what, index, sentence))
        os.eventfd_write(self.attention_fd, 1)

    def names(self) -> list[str]:
        """The calls without their arguments."""
        return [call[0] for call in self.calls]

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of the calls of one name."""
        return [call[1:] for call in self.calls if call[0] == name]

    def _called(self, *call: Any, may_refuse: bool = False) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error
        if self.refusal and may_refuse:
            raise RingRefusedError(self.refusal)

    def begin(self) -> None:
        """Begin a change; or go on with one that could not be committed."""

    def commit(self, seconds: float = 0.0) -> bool:
        if self.worker_stuck:
            time.sleep(seconds)
            return False
        self.doors += len(self.calls) > self.called_at_begin
        self.called_at_begin = len(self.calls)
        return True

    def set_link(self, up: bool) -> None:
        if up != self.link:
            self._called("set_link", up)
            self.link = up

    def set_features(self, features: int) -> None:
        self._called("set_features", features, may_refuse=True)

    def set_memory(self, memory: Any) -> tuple[int, ...]:
        self._called("set_memory", memory)
        lost, self.lost = self.lost, ()
        return lost

    def keep_journals(self, buffer: Any) -> None:
        self._called("keep_journals", len(buffer))

    def forget_queue(self, index: int) -> None:
        """Nothing was noted."""

    def start_queue(self, index: int, setup: QueueSetup) -> str:
        self._called("start_queue", index, setup, may_refuse=True)
        base = self._base(index) if setup.base is None else setup.base  # None: where it stopped
        self.live[index] = setup._replace(base=base)
        self.next_avail[index] = base
        self.news = [news for news in self.news if news[1] != index]  # of the queue before it
        return "as told"

    def kick_queue(self, index: int) -> None:
        self._called("kick_queue", index)

    def stop_queue(self, index: int) -> int:
        self._called("stop_queue", index)
        self.live.pop(index, None)
        return self._base(index)

    def queue_setup(self, index: int) -> QueueSetup:
        return self.live.get(index, QueueSetup(0, 0, 0, 0, 0))._replace(base=self._base(index))

    def _base(self, index: int) -> int:
        return self.next_avail.get(index, 0)

    def set_enabled(self, index: int, enabled: bool) -> None:
        self._called("set_enabled", index, enabled)

    def set_call_fd(self, index: int, call_fd: int) -> None:
        self._called("set_call_fd", index, call_fd)
        self.live[index] = self.live[index]._replace(call_fd=call_fd)

    def set_kick_fd(self, index: int, kick_fd: int) -> None:
        self._called("set_kick_fd", index, kick_fd)

    def call(self, index: int) -> None:
        """As the real one writes it."""
        if (fd := self.live[index].call_fd) >= 0:
            notify.signal(fd)

    def signal_err(self, index: int, err_fd: int) -> None:
        assert index < 2 * self.queue_pairs
        notify.signal(err_fd)

    def tend(self, now: float) -> float | None:
        assert now > 0
        stuck, self.stuck = self.stuck, ""
        if stuck:
            raise NotificationsStuckError(stuck)
        return None

    def queue_state(self, index: int) -> QueueState:
        live = index in self.live
        avail_idx = self.avail_idx.get(index, self.next_avail.get(index, 0))
        return QueueState(index, 0, live, live, live, "", avail_idx, 0, 0, 0, 0, False, False, 0, 0.0, 0)

    def events(self) -> list[tuple[str, int, str]]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.attention_fd)
        news, self.news = self.news, []
        return news


class FakeMapping:
    """A region that is not mapped. Refuses a size of 666 bytes."""

    open: int = 0
    """All mappings that are not closed."""

    def __init__(self, fd: int, guest_addr: int, bytes: int, _user_addr: int, _mmap_offset: int, _page: int) -> None:
        os.fstat(fd)
        if bytes == 666:
            raise ValueError("a region of 666 bytes; nobody maps that")
        self.guest_addr = guest_addr
        self.closed = False
        FakeMapping.open += 1

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        FakeMapping.open -= 1


class FakeTable:
    """Refuses two regions at one guest address."""

    def __init__(self, mappings: Sequence[FakeMapping]) -> None:
        self.mappings = tuple(mappings)
        if len({mapping.guest_addr for mapping in mappings}) != len(mappings):
            raise ValueError("two regions overlap")


FAKE_MEMORY = MemoryMaker(FakeMapping, FakeTable)


class AtOnce(Changes):
    """Changes of a port without workers: they take effect at once."""

    def __init__(self) -> None:
        port = FakePort()
        super().__init__(port)
        port.close()

    def then(self, act: Callable[[], None]) -> None:
        act()
