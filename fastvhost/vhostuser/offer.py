"""The feature bits that a port offers to whoever comes next. vhost-user, VHOST_USER_GET_FEATURES.

A bit that was once offered cannot simply be withdrawn: the guest that acknowledged it runs, and QEMU gives up a
back-end that lacks a bit of those ("vhost lacks feature mask"). So what this front-end acknowledged is offered again.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastvhost.backend.features import F_RING_RESET, mask
from fastvhost.backend.record import Record
from fastvhost.vhostuser.net_config import PLAIN, DeviceSettings
from fastvhost.vhostuser.protocol_features import offered_features

WITHDRAWN = mask(F_RING_RESET)
"""Bits that were offered once and are so no longer. RING_RESET: QEMU lets the guest have it and resets a queue in
itself only, so that the back-end goes on with the rings of before (hw/net/virtio-net.c, virtio_net_queue_reset)."""


class Offer:
    """Of one port, to one front-end after the other. record: what one acknowledged before this process was there."""

    def __init__(
        self, queue_pairs: int, without: int = 0, record: Record | None = None, device: DeviceSettings = PLAIN
    ) -> None:
        """without: feature bits (virtio 1.2, sections 5.1.3 and 6) that are offered to nobody."""
        self.device = device
        self._usual, self._withdrawn = offered_features(queue_pairs, device) & ~without, WITHDRAWN & ~without
        self._record = record
        self._features, self._pid = 0, 0
        self._turned_down = False

    def to(self, pid: int) -> int:
        """What GET_FEATURES answers this process; pid 0 where it cannot be known."""
        if self._record is not None:
            before = self._record.acknowledged(pid)
        else:
            before = self._features if pid == self._pid else 0
        return self._usual | (self._withdrawn if self._turned_down else before & self._withdrawn)

    def chosen(self, features: int, pid: int) -> None:
        """The front-end acknowledged these."""
        self._features, self._pid, self._turned_down = features, pid, False
        if self._record is not None:
            self._record.acknowledge(features, pid)

    def met(self, files: Sequence[tuple[int, int]]) -> None:
        """Its guest's memory lies in these (device and inode)."""
        if self._record is not None:
            self._record.met(files)

    def turned_down(self) -> bool:
        """A front-end asked for the features and left without a word. Perhaps its guest runs and has more of them.

        Whether the next one is offered more than this one was.
        """
        before, self._turned_down = self._turned_down, True
        return not before
