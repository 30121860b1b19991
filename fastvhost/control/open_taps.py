"""The text of a Python program that opens a tap's queues and then execs another program. For lines to paste.

QEMU with vhostfds= does not open a tap of several queues itself: it wants their descriptors, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastvhost.hostside.tap import IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFREQ, TUN, TUNSETIFF

# It runs where fastvhost may not be installed. The first queue's name, which the kernel chooses, joins the others to
# it.
_PROGRAM = """\
import fcntl, os, struct, sys
name = b""
for fd in {fds}:
    tap = os.open("{tun}", os.O_RDWR)
    name = fcntl.ioctl(tap, {command:#x}, struct.pack("{ifreq}", name, {flags:#x}))[:16]
    os.dup2(tap, fd)
    os.close(tap)
os.execvp(sys.argv[1], sys.argv[1:])"""


def open_taps(fds: Sequence[int]) -> str:
    """The text of that program, in Python. fds: which file descriptors the queues are to be."""
    flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE
    return _PROGRAM.format(fds=list(fds), tun=TUN, command=TUNSETIFF, ifreq=IFREQ.format, flags=flags)
