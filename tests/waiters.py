"""Many waiters for one eventfd. A write to it wakes each of them with interrupts off, in the writer's time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.guests.waits import MAX_WAIT

POLLIN = 1
MOST = 20_000


@contextlib.contextmanager
def waiters(fd: int) -> Iterator[int]:
    """One poll(2) with as many entries of this file as the hard limit of descriptors allows. Yields how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(hard, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))
    end = os.eventfd(0)
    entries = struct.pack("=ihh", end, POLLIN, 0) + struct.pack("=ihh", fd, 0, 0) * (n - 1)
    buffer = ctypes.create_string_buffer(entries)
    tid: list[int] = []

    def wait() -> None:
        tid.append(threading.get_native_id())
        ctypes.CDLL(None).poll(buffer, ctypes.c_ulong(n), 120_000)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + MAX_WAIT
        while not tid or "poll" not in Path(f"/proc/self/task/{tid[0]}/wchan").read_text():
            assert time.monotonic() < deadline, "does not wait"
            time.sleep(0.01)
        yield n
    finally:
        os.eventfd_write(end, 1)
        thread.join(MAX_WAIT)
        os.close(end)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
