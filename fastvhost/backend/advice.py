"""What to tell an operator, with lines to paste. Each sentence names the cause and the remedy, in one line."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from fastvhost.backend import qemu


class Approach(NamedTuple):
    """How front-ends come to a port."""

    state: str
    """What the port does while it has no front-end, in one word."""
    opening: str
    """The same, as a line of the log."""
    nobody: Callable[[str], str]
    """What to say when no front-end has come for a while. Takes the reason why the last attempt to connect failed."""
    no_word: int = logging.WARNING
    """Log level for a front-end that connected and sends no message."""


SHARE = (
    "share the guest's memory: QEMU -object memory-backend-memfd,id=m0,size=1G,share=on -machine memory-backend=m0; "
    "libvirt <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
)


def _qemu(path: str, chardev: str) -> str:
    return (
        f"QEMU -chardev socket,id=c0,path={path},{chardev} -netdev vhost-user,id=n0,chardev=c0 "
        "-device virtio-net-pci,netdev=n0"
    )


def by_listening(path: str, permissions: str) -> Approach:
    """Front-ends connect to the port's socket."""
    needed = _qemu(path, qemu.reconnect(None))
    older = f"(QEMU before 9.2: {qemu.reconnect((0, 0, 0))})"
    nobody = f"nobody connects; a guest needs {needed} {older}, and its user write permission ({permissions})"
    return Approach("listening", f"listening on {path}", lambda _: nobody)


def by_connecting(path: str) -> Approach:
    """The port connects to the front-end's socket. A connection there may not be accepted yet."""

    def nobody(reason: str) -> str:
        if reason == os.strerror(errno.EACCES):
            # The socket is the guest's: QEMU makes it with its umask, which lets no group write it. unix(7)
            remedy = f"let the user of this process write the socket (chmod g+w {path}) and enter its directory"
            return f"cannot connect yet ({reason}), trying on; {remedy}"
        needed = _qemu(path, "server=on,wait=off")
        return f"cannot connect yet ({reason or 'no answer'}), trying on; a guest needs {needed}"

    return Approach("connecting", f"connecting to {path}", nobody, logging.INFO)


HELD = (
    "that happens with memory that is swapped out, lies on a slow disk, or has holes punched into it; "
    "lock the guest's memory (QEMU -overcommit mem-lock=on) and keep it in a memfd or hugepages"
)

OVERDONE = (
    "its messages wait, so that other guests keep their share of the workers; a guest that boots asks for less: "
    "look for a driver or front-end that starts over and over (the guest's dmesg, the log of QEMU), and stop it"
)

NO_WORD = "connected, but the peer says nothing; is it a vhost-user front-end, and is it running?"

NO_DRIVER = "no driver yet: the guest is still booting, or has none for virtio-net (in the guest: modprobe virtio_net)"

MEMORY_NOT_SHARED = f"features came but no memory, so it is probably not shared; {SHARE}"

NOT_STARTED = "the driver has not started its device yet"

NO_RINGS = "no ring was started yet: the guest is still booting, or its driver is not loaded (modprobe virtio_net)"

NOT_ENABLED = "rings are set up but not enabled: the driver has not started its device yet"

PRIVATE_MEMORY = f"the guest kicks but its rings look empty: its memory is probably a private mapping; {SHARE}"

NO_BUFFERS = "no buffer in any ring yet: the interface is probably down (in the guest: ip link set eth0 up)"

NO_PACKET = "no packet from the guest yet; it has posted receive buffers, so it just has nothing to send"


def kept(bits: list[str]) -> str:
    """The guest still uses feature bits that an earlier fwd offered and this one does not."""
    return (
        f"the guest has {' '.join(bits)} from an earlier fwd, and its front-end keeps resets to itself: ethtool -G in "
        "it ends its network, until its QEMU is started anew (a reboot within the guest is not enough)"
    )


def left_standing(rings: list[int]) -> str:
    """Packed rings that were in use before, and no record says at which position."""
    which = f"ring{'s' * (len(rings) > 1)} {' '.join(map(str, rings))}"
    return (
        f"{which}: packed, and in use before this connection, but nothing tells where it stood (its fwd kept no "
        "record, or it is another guest's): no frame will pass; in the guest load its driver anew, or reboot it"
    )
