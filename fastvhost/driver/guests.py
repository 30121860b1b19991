"""Two built-in guests behind two vhost-user sockets: the load for the demo, the benchmarks and the tests."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from fastvhost.backend.payload import SharedRegion
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature, FrontEnd, GuestsError
from fastvhost.driver.load import Load
from fastvhost.driver.offload import LEAST_BYTES
from fastvhost.driver.settings import IMIX, USUAL_PAIR, PairSettings

__all__ = ["IMIX", "LEAST_BYTES", "Direction", "GuestCounters", "Guests", "GuestsError", "Latency", "PairSettings"]

DRAIN_SECONDS = 5.0
QUIET_SECONDS = 2.0


class Direction(NamedTuple):
    """Frames from one guest to the other, so far."""

    sent_frames: int
    """Frames given to the back-end, also those in flight."""
    sent_bytes: int
    """Ethernet bytes, without the virtio-net header."""
    frames: int
    """Frames received, also those out of order or not intact."""
    bytes: int
    corrupt: int
    """Frames received with a wrong length, header, number or content."""
    reordered: int
    """Frames received after one that was sent later."""
    duplicated: int
    lost: int
    """Frames sent and not received intact: while running, gaps in the numbers; after stop_load(), all missing ones."""


class GuestCounters(NamedTuple):
    """A snapshot of both directions."""

    a_to_b: Direction
    b_to_a: Direction

    @property
    def frames(self) -> int:
        """Frames received, both directions together."""
        return self.a_to_b.frames + self.b_to_a.frames

    @property
    def bytes(self) -> int:
        return self.a_to_b.bytes + self.b_to_a.bytes

    @property
    def corrupt(self) -> int:
        return self.a_to_b.corrupt + self.b_to_a.corrupt

    @property
    def reordered(self) -> int:
        return self.a_to_b.reordered + self.b_to_a.reordered

    @property
    def duplicated(self) -> int:
        return self.a_to_b.duplicated + self.b_to_a.duplicated

    @property
    def lost(self) -> int:
        return self.a_to_b.lost + self.b_to_a.lost


class Latency(NamedTuple):
    """One-way latency with one frame in flight, from guest A to guest B, in microseconds."""

    p50: float
    p99: float
    p999: float
    worst: float
    samples: int
    lost: int


def _allowed_cores() -> set[int]:
    """CPUs that this thread may use; none where a sandbox forbids to ask."""
    try:
        return os.sched_getaffinity(0)
    except OSError:
        return set()


class Guests:
    """Guest A and guest B: a virtio-net driver each, both in one thread, which floods as the settings say."""

    def __init__(self, a_path: str, b_path: str, settings: PairSettings = USUAL_PAIR) -> None:
        core = settings.core
        if core is not None and (allowed := _allowed_cores()) and core not in allowed:
            raise GuestsError(f"the guests may not run on CPU {core}; choose one of {sorted(allowed)}")
        self._settings = settings
        self._devices: list[GuestDevice] = []
        self._load: Load | None = None
        self._thread: threading.Thread | None = None
        self._drained = False
        self._final: GuestCounters | None = None
        self._front_ends: list[FrontEnd] = []
        try:
            for path in (a_path, b_path):
                self._front_ends.append(FrontEnd(path, listen=settings.listen, timeout=settings.timeout))
        except GuestsError:
            self._hang_up()
            raise

    def connect(self) -> None:
        """Connect both guests and start their rings; nothing is sent. Raises GuestsError after `timeout` seconds."""
        if self._final is not None:
            raise GuestsError("the guests were stopped for good; make new ones")
        if self._load is not None:
            return
        try:
            for front_end in self._front_ends:
                front_end.connect()
            for front_end, tag, peer_tag, sends in zip(
                self._front_ends, (1, 2), (2, 1), (True, self._settings.both_ways), strict=True
            ):
                features = int(front_end.negotiate(self._settings.wish))
                if front_end.queue_pairs < self._settings.queues:
                    raise GuestsError(
                        f"{front_end.path}: {self._settings.queues} queue pairs are wished for and the back-end has "
                        f"{front_end.queue_pairs}; start it with more"
                    )
                device = GuestDevice(self._settings, features=features, tag=tag, peer_tag=peer_tag, sends=sends)
                self._devices.append(device)
                self._start_rings(front_end, device)
        except (GuestsError, ValueError, MemoryError) as error:
            self._hang_up()
            raise GuestsError(str(error)) from error
        self._load = Load(*self._devices, sleeps=self._settings.sleeps)

    def reconnect(self) -> None:
        """Go on with another back-end at the same sockets, after the last one ended without GET_VRING_BASE.

        Also while the load runs, which waits meanwhile. Rings that send start last: their frames would be dropped while
        the other guest is not there. Raises GuestsError after `timeout` seconds.
        """
        guests = list(zip(self._front_ends, self._devices, strict=True))
        for front_end, device in guests:
            before = front_end.features
            front_end.reconnect()
            if front_end.negotiate(before) != before:
                raise GuestsError(f"{front_end.path}: the back-end lacks a feature that the one before had")
            self._share_memory(front_end, device)
        for first in (0, 1):
            for front_end, device in guests:
                for index in range(first, 2 * self._settings.queues, 2):
                    # Enabled first: a ring that is started but disabled is drained. vhost-user, "Ring states".
                    front_end.enable_ring(index)
                    self._start_ring(front_end, device, index, device.base_left(index))

    def _start_rings(self, front_end: FrontEnd, device: GuestDevice) -> None:
        self._share_memory(front_end, device)
        for index in range(2 * self._settings.queues):
            self._start_ring(front_end, device, index, device.base)
        for index in range(2 * self._settings.queues):
            front_end.enable_ring(index)

    def _share_memory(self, front_end: FrontEnd, device: GuestDevice) -> None:
        ram = device.ram
        front_end.share_memory(ram.fd, SharedRegion(ram.guest_addr, ram.bytes, ram.user_addr, 0))

    def _start_ring(self, front_end: FrontEnd, device: GuestDevice, index: int, base: int) -> None:
        kick_fd, call_fd = device.kick_fds[index], device.call_fds[index]
        front_end.start_ring(index, self._settings.queue_size, device.ring_addresses(index), kick_fd, call_fd, base)

    @property
    def features(self) -> tuple[Feature, Feature]:
        """The features that guest A and guest B negotiated with the back-end."""
        a, b = self._front_ends
        return a.features, b.features

    @property
    def by_queue(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Frames that guest A and guest B sent and received on each of their queue pairs."""
        a, b = self._devices
        return a.by_queue, b.by_queue

    @property
    def naps(self) -> int:
        """How often the guests' thread slept."""
        return self._load.naps if self._load else 0

    @property
    def stalls(self) -> int:
        """How often the guests' thread slept for a second with something to do: a notification was missing."""
        return self._load.stalls if self._load else 0

    @property
    def connected(self) -> bool:
        """Whether both connections are up, and no back-end returned a buffer that it did not have."""
        return all(f.connected for f in self._front_ends) and not any(d.broken for d in self._devices)

    def start(self) -> None:
        """Connect if not done yet, then flood in a thread of its own. Returns at once."""
        self.connect()
        if self._load is None or self._thread is not None:
            raise GuestsError("the guests run already; call stop_load() first")
        self._drained = False
        self._load.flood()
        self._thread = self._in_thread(self._load.run)

    def _in_thread(self, work: Callable[[], object]) -> threading.Thread:
        def pinned() -> None:
            if self._settings.core is not None:
                with contextlib.suppress(OSError):  # a sandbox forbids pinning: they run where they may
                    os.sched_setaffinity(0, {self._settings.core})
            work()

        thread = threading.Thread(target=pinned, name="guests", daemon=True)
        thread.start()
        return thread

    def _wait_for(self, load: Load, work: Callable[[], object]) -> None:
        """Call work() in a thread, and wait for it; after ^C too, since the caller then unmaps the memory it uses."""
        done = threading.Event()    # in Python 3.11 a thread whose join() was interrupted counts as ended

        def run() -> None:
            try:
                work()
            finally:
                done.set()

        self._in_thread(run)
        try:
            done.wait()
        except BaseException:
            load.stop()
            done.wait()
            raise

    def counters(self) -> GuestCounters:
        """The counters now. From any thread."""
        if self._final is not None:
            return self._final
        if not self._devices:
            return GuestCounters(Direction(*[0] * 8), Direction(*[0] * 8))
        a, b = self._devices
        return GuestCounters(self._direction(a, b), self._direction(b, a))

    def _direction(self, sender: GuestDevice, receiver: GuestDevice) -> Direction:
        # The receiver's counter is read first: so no frame is counted as received before it is counted as sent.
        frames, n_bytes, corrupt, reordered, duplicated, missing = receiver.received
        sent_frames, sent_bytes = sender.sent
        lost = max(0, sent_frames - (frames - corrupt - duplicated)) if self._drained else missing
        return Direction(sent_frames, sent_bytes, frames, n_bytes, corrupt, reordered, duplicated, lost)

    def latency(self, seconds: float = 2.0, gap_us: float = 5.0) -> Latency:
        """Measure frames from A to B, one in flight at a time. Instead of start(), or after stop_load()."""
        self.connect()
        load = self._load
        if load is None or self._thread is not None:
            raise GuestsError("latency wants idle guests; call stop_load() first")
        result: list[tuple[list[int], int]] = []
        self._wait_for(load, lambda: result.append(load.latency(seconds, gap_us)))
        samples, lost = result[0]
        return self._percentiles(samples, lost)

    def latency_under_load(self, seconds: float = 1.0, frames_per_second: float = 0) -> tuple[Latency, float]:
        """Measure samples of a flood, or of `frames_per_second` each way. Returns also the rate that was reached.

        Instead of start(), or after stop_load(). In a flood a frame waits behind all others in its ring.
        """
        self.connect()
        load = self._load
        if load is None or self._thread is not None:
            raise GuestsError("latency wants idle guests; call stop_load() first")
        result: list[tuple[list[int], float]] = []
        self._wait_for(load, lambda: result.append(load.latency_under_load(seconds, frames_per_second)))
        load.drain()
        self._thread = self._in_thread(load.run)
        lost = self.stop_load().lost
        return self._percentiles(result[0][0], lost), result[0][1]

    def _percentiles(self, samples: list[int], lost: int) -> Latency:
        if not samples:
            raise GuestsError(f"{self._front_ends[0].path}: no frame came through to {self._front_ends[1].path}")
        samples.sort()
        at = [samples[min(len(samples) - 1, int(len(samples) * q))] / 1e3 for q in (0.5, 0.99, 0.999, 1)]
        return Latency(at[0], at[1], at[2], at[3], len(samples), lost)

    def stop_load(self) -> GuestCounters:
        """Stop sending, and wait until all frames are received or known to be lost (5 s at most)."""
        if self._load is not None and self._thread is not None:
            self._load.drain()
            self._await_quiet()
            self._load.stop()
            self._thread.join()
            self._thread = None
            self._drained = True
        return self.counters()

    def _await_quiet(self) -> None:
        """Wait until all buffers are back and all frames received, or nothing has changed for a while."""
        deadline = time.monotonic() + DRAIN_SECONDS
        seen, since = -1, time.monotonic()
        while (now := time.monotonic()) < deadline:
            counters = self.counters()
            came = all(c.frames - c.duplicated == c.sent_frames for c in counters)
            if came and not any(d.unreturned for d in self._devices):
                return
            if counters.frames != seen:
                seen, since = counters.frames, now
            elif now - since > QUIET_SECONDS:
                return
            time.sleep(0.001)

    def stop(self) -> GuestCounters:
        """stop_load(), then stop the rings and disconnect. Returns the final counters. Idempotent."""
        final = self.stop_load()
        if self._load is not None:
            for front_end in self._front_ends:
                with contextlib.suppress(GuestsError):    # a back-end that ended has stopped as well
                    for index in range(2 * self._settings.queues):
                        front_end.stop_ring(index)
        self._final = final
        self._hang_up()
        return final

    def _hang_up(self) -> None:
        for front_end in self._front_ends:
            front_end.close()
        self._load = None
        for device in self._devices:
            device.close()

    def __enter__(self) -> Self:
        """start(); the end of the block calls stop()."""
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
