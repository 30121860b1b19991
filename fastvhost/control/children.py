"""Child programs that the kernel kills when their parent ends, also by SIGKILL, after which it could not end them."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

# In the child, until it becomes the program. If the parent died before prctl(), getppid() has changed: exit. What
# prctl() sets outlives execve; it is called here because code between fork and execve may not take locks.
FIRST = """
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGKILL = 1, 9
if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL):
    print("fastvhost: warning: prctl is not allowed here: this program outlives one that is killed", file=sys.stderr)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def dying_with_us(command: Sequence[str | Path]) -> list[str]:
    """The command line that starts a command so that the kernel kills it when the thread that started it ends.

    prctl(2), PR_SET_PDEATHSIG: when that thread ends, not its process. So start it in a thread that stays.
    Raises FileNotFoundError where there is no such program.
    """
    program = str(command[0])
    if shutil.which(program) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    return [sys.executable, "-ISc", FIRST, str(os.getpid()), *map(str, command)]
