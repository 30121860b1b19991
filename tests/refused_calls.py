"""Makes system calls fail, as if the machine had run out of something, for one thread or one command only.

usage: python -m tests.refused_calls [ERROR] NAME... -- COMMAND...    (ERROR: EPERM or the like, else EAGAIN)
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
NUMBERS = {
    "x86_64": {
        "io_setup": 206, "io_submit": 209, "write": 1, "sched_setaffinity": 203, "prctl": 157, "memfd_create": 319,
        "sched_setscheduler": 144, "sched_getaffinity": 204,
        "mlock": 149, "mlock2": 325, "mlockall": 151, "pidfd_open": 434,
        "madvise": 28, "flock": 73, "fallocate": 285, "prlimit64": 302, "faccessat2": 439, "close_range": 436,
    },
    "aarch64": {
        "io_setup": 0, "io_submit": 2, "write": 64, "sched_setaffinity": 122, "prctl": 167, "memfd_create": 279,
        "sched_setscheduler": 119, "sched_getaffinity": 123,
        "mlock": 228, "mlock2": 284, "mlockall": 230, "pidfd_open": 434,
        "madvise": 233, "flock": 32, "fallocate": 47, "prlimit64": 261, "faccessat2": 439, "close_range": 436,
    },
}  # fmt: skip
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def refuse(names: Sequence[str], error: int = errno.EAGAIN) -> None:
    """From now on this thread, and what it starts, gets this error from these calls (seccomp(2)). Cannot be undone."""
    numbers = [NUMBERS[platform.machine()][name] for name in names]
    steps = [(LOAD_NUMBER, 0, 0, 0)]
    steps += [(JUMP_IF_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | error)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
    for option, argument in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER)):
        behind = ctypes.addressof(program) if option == PR_SET_SECCOMP else 0
        if libc.prctl(option, argument, behind, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def without(names: Sequence[str], call: Callable[[], T], seconds: float = 60.0) -> T:
    """What call() returns in a thread to which these system calls are refused. Fails where it does not return."""
    answers: list[T] = []

    def run() -> None:
        refuse(names)
        answers.append(call())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"did not return within {seconds:g} s"
    assert answers, "raised, see above"
    return answers[0]


if __name__ == "__main__":
    end = sys.argv.index("--")
    names = sys.argv[1:end]
    error = getattr(errno, names[0]) if names[0].isupper() else errno.EAGAIN
    refuse([name for name in names if not name.isupper()], error)
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
