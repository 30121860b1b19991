"""How a virtqueue is set up: what starts one, and what one that stopped would be started by again."""

from __future__ import annotations

from typing import NamedTuple


class QueueSetup(NamedTuple):
    """One queue's place, position and file descriptors. vhost-user, SET_VRING_NUM, _ADDR, _BASE, _KICK and _CALL."""

    size: int
    """Entries."""
    desc_user_addr: int
    avail_user_addr: int
    used_user_addr: int
    """Where its three parts lie, in the front-end's address space. Virtio 1.2, sections 2.7 and 2.8."""
    base: int | None
    """SET_VRING_BASE's value; None: where it stopped."""
    call_fd: int = -1
    kick_fd: int = -1
    """Borrowed; -1 is none."""
    enabled: bool = True
    kicked: bool = True
    """False: it counts as started at its first kick, or when a worker finds a buffer in it."""
