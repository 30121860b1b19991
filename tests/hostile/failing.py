"""A fwd in which calls that need resources fail when the test says so: failing.c, preloaded."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
ENTRY = struct.Struct("qqq")
FUNCTIONS = (
    "mmap", "mmap_over", "memfd_create", "io_setup", "pthread_create", "accept4", "eventfd", "socket", "dup", "fork",
    "recvmsg", "sendmsg",
)  # fmt: skip
BOARD = (*FUNCTIONS, "first_frame")
"""In the order of failing.c. The last is CPython's mapping for a new thread."""
FOR_EVER = 1 << 40


def build(directory: Path) -> Path:
    """The library, compiled."""
    library = directory / "failing.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


class Failing:
    """Starts a fwd, and says which of its calls fail from now on."""

    def __init__(self, library: Path, board: Path, **more: str) -> None:
        """`more`: for its environment. With FAILING_REPLACE a fresh socket `replaced` becomes a link to it."""
        board.write_bytes(bytes(4096))
        self._environment = {**os.environ, "LD_PRELOAD": str(library), "FAILING_BOARD": str(board), **more}
        with board.open("r+b") as file:
            self._board = mmap.mmap(file.fileno(), 4096)

    def start(self, arguments: list[str], log_path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fastvhost", *arguments]
        with log_path.open("a") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def run(self, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Another program with the same library, to its end."""
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def fail(self, function: str, *, after: int = 0, times: int = FOR_EVER) -> None:
        """`after` calls of it succeed, then so many fail, and then all succeed."""
        at = BOARD.index(function) * ENTRY.size
        self._board[at + 8 : at + 16] = bytes(8)  # switched off while the rest is written
        self._board[at : at + 8] = struct.pack("q", after)
        self._board[at + 8 : at + 16] = struct.pack("q", times)

    def failed(self, function: str) -> int:
        """How many of its calls failed so far."""
        return int(ENTRY.unpack_from(self._board, BOARD.index(function) * ENTRY.size)[2])

    def mend(self) -> None:
        for function in BOARD:
            self.fail(function, times=0)

    @contextlib.contextmanager
    def failing(self, function: str, *, after: int = 0, times: int = FOR_EVER) -> Iterator[None]:
        """These calls fail within the block."""
        self.fail(function, after=after, times=times)
        try:
            yield
        finally:
            self.mend()
