"""A process of a hostile guest that rewrites what the device is reading, as fast as it can.

It gets the file of the guest's memory and a list of jobs (offset, candidates): it writes a random candidate there,
again and again. Its board says whether to do that in the file or, as harmless work, in memory of its own.
"""

from __future__ import annotations

import mmap
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Sequence

Job = tuple[int, list[bytes]]
"""Offset in the file, and candidates to write there."""
AIMED, STOP, READY = 0, 1, 2
COUNT = slice(8, 16)
"""On the board: how often the file was rewritten."""
BATCH = 500


class Flipper:
    """The process, as the test uses it."""

    def __init__(self, fd: int, jobs: Sequence[Job], seed: int = 1) -> None:
        board_fd = os.memfd_create("board")
        os.ftruncate(board_fd, mmap.PAGESIZE)
        self._board = mmap.mmap(board_fd, mmap.PAGESIZE)
        command = [sys.executable, "-m", "tests.hostile.flipper", str(fd), str(board_fd), str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(fd, board_fd))
        os.close(board_fd)
        assert self.process.stdin
        pickle.dump(list(jobs), self.process.stdin)
        self.process.stdin.close()
        deadline = time.monotonic() + 30.0
        while not self._board[READY]:
            assert self.process.poll() is None, "the rewriting process ended"
            assert time.monotonic() < deadline, "the rewriting process does not start"
            time.sleep(0.005)

    def aim(self, on: bool) -> None:
        self._board[AIMED] = on

    def rewrites(self) -> int:
        """How often it rewrote something in the file so far."""
        return int.from_bytes(self._board[COUNT], "little")

    def stop(self) -> None:
        self._board[STOP] = 1
        self.process.wait(30)


def main() -> None:
    fd, board_fd, seed = map(int, sys.argv[1:])
    jobs: list[Job] = pickle.load(sys.stdin.buffer)
    board = mmap.mmap(board_fd, mmap.PAGESIZE)
    target = mmap.mmap(fd, 0)
    idle = mmap.mmap(-1, len(target))
    chosen = random.Random(seed)
    writes = [(at, value) for at, values in jobs for value in values]
    parent = os.getppid()
    board[READY] = 1
    count = 0
    while not board[STOP] and os.getppid() == parent:
        aimed = board[AIMED]
        where = target if aimed else idle
        for at, value in chosen.choices(writes, k=BATCH):
            where[at : at + len(value)] = value
        count += BATCH if aimed else 0
        board[COUNT] = count.to_bytes(8, "little")


if __name__ == "__main__":
    main()
