"""What a process holds: files, threads, mappings and memory; and what its helpers keep of others' files. proc(5)"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from pathlib import Path

EVENTFD, MEMFD = "anon_inode:[eventfd]", "/memfd:"
NOTIFIER_EVENTFDS = 3
"""Of a port with one queue pair, in the thread that notifies its guest."""


def open_files(process: Path) -> Counter[str]:
    """Its open file descriptors by what they are."""
    found: Counter[str] = Counter()
    for entry in (process / "fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # closed since the directory was read
        found[target.split(":[")[0] if target.startswith("socket") else target] += 1
    return found


def helpers(pid: int) -> list[int]:
    """Processes that it started, and theirs."""
    found, asked = [], [pid]
    while asked:
        for path in Path(f"/proc/{asked.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(word) for word in path.read_text().split()]
                found += children
                asked += children
    return found


class Holdings:
    """What a fwd holds at one moment."""

    def __init__(self, pid: int) -> None:
        proc = Path(f"/proc/{pid}")
        files = open_files(proc)
        self.eventfds = files[EVENTFD]
        self.files = files.total() - self.eventfds
        self.kept = 0
        """Files of front-ends that its helpers have open."""
        for helper in helpers(pid):
            with contextlib.suppress(OSError):  # it ended
                its = open_files(Path(f"/proc/{helper}"))
                self.kept += sum(n for kind, n in its.items() if kind == EVENTFD or kind.startswith(MEMFD))
        self.threads = len(list((proc / "task").iterdir()))
        maps = (proc / "maps").read_text().splitlines()
        self.foreign = sum("memfd:" in line or "/dev/shm" in line or ".state" in line for line in maps)
        """Mappings of files of guests, and of records."""
        self.mappings = len(maps)
        self.resident = int(re.search(r"VmRSS:\s+(\d+) kB", (proc / "status").read_text())[1]) << 10  # type: ignore[index]
        """Bytes."""

    def beyond(self, before: Holdings, ports: int) -> dict[str, int]:
        """What it holds more than before, by kind.

        Each of so many ports may have begun meanwhile to notify its guest by a thread: it does when it first needs to.
        """
        more = {
            "files": self.files - before.files,
            "files kept by helpers": self.kept - before.kept,
            "mappings of foreign memory": self.foreign - before.foreign,
            "threads": self.threads - before.threads - ports,
            "eventfds": self.eventfds - before.eventfds - NOTIFIER_EVENTFDS * ports,
        }
        return {kind: n for kind, n in more.items() if n > 0}

    @property
    def figures(self) -> dict[str, float]:
        return {
            "rss_mib": round(self.resident / (1 << 20), 1),
            "files": self.files + self.eventfds,
            "files_of_helpers": self.kept,
            "mappings": self.mappings,
            "threads": self.threads,
        }
