"""Stops one thread of a process, by its name, until the process has ended: `hold_thread.py PID NAME`.

A signal would stop all threads; a tracer stops one. ptrace(2)
"""

import ctypes
import os
import sys
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000


def hold(pid: int, name: str) -> None:
    """Returns when the thread has ended."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    thread = next(int(task.name) for task in tasks if (task / "comm").read_text().strip() == name)
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long] * 4
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if ptrace(request, thread, 0, 0):
            raise OSError(ctypes.get_errno(), "ptrace")
    while True:
        _, status = os.waitpid(thread, WALL)
        if not os.WIFSTOPPED(status):
            return


if __name__ == "__main__":
    hold(int(sys.argv[1]), sys.argv[2])
