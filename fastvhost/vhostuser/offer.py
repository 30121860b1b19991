"""The feature bits that a port offers to its next front-end. vhost-user, VHOST_USER_GET_FEATURES.

A bit that was once offered cannot simply be withdrawn: a guest that acknowledged it goes on running, and its QEMU
refuses a back-end without it ("vhost lacks feature mask"). So what this front-end acknowledged is offered to it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastvhost.backend.features import F_RING_RESET, mask
from fastvhost.backend.record import Record
from fastvhost.vhostuser.net_config import PLAIN, DeviceSettings
from fastvhost.vhostuser.protocol_features import offered_features

WITHDRAWN = mask(F_RING_RESET)
"""Bits that earlier versions offered. RING_RESET: QEMU offers it to the guest, but resets a queue in itself only, so
that the back-end goes on with the old ring (hw/net/virtio-net.c, virtio_net_queue_reset)."""


class Offer:
    """What one port offers, to one front-end after another. record: what one acknowledged to an earlier fwd."""

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
        """What GET_FEATURES answers this front-end process; pid: 0 where it is not known."""
        if self._record is not None:
            before = self._record.acknowledged(pid)
        else:
            before = self._features if pid == self._pid else 0
        return self._usual | (self._withdrawn if self._turned_down else before & self._withdrawn)

    def chosen(self, features: int, pid: int) -> None:
        """The front-end acknowledged these features."""
        self._features, self._pid, self._turned_down = features, pid, False
        if self._record is not None:
            self._record.acknowledge(features, pid)

    def met(self, files: Sequence[tuple[int, int]]) -> None:
        """Its guest's memory lies in these files (device and inode)."""
        if self._record is not None:
            self._record.met(files)

    def turned_down(self) -> bool:
        """A front-end asked for the features and disconnected.

        Perhaps its guest runs and uses features that were missing. Returns whether the next front-end is offered more.
        """
        before, self._turned_down = self._turned_down, True
        return not before
