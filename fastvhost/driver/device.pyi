"""One guest's network device as its driver runs it: memory, rings, buffers, eventfds, counts."""

from typing import final

from fastvhost.driver.ram import GuestRam
from fastvhost.driver.settings import GuestSettings

CONTENTS: dict[str, int]
"""What frames may hold: "none", "numbers", "whole"."""

@final
class GuestDevice:
    """Memory, rings, buffers and eventfds of one device.

    features: as negotiated; with INDIRECT_DESC the pieces of a frame stand in a table. tag, peer_tag: tell this
    sender's frames and its peer's from any others, 0..255. peer_queues: queue pairs that the peer sends on, as many as
    here by default.
    """

    ram: GuestRam
    features: int
    packed: bool
    queues: int
    kick_fds: tuple[int, ...]
    """Of receiveq 0, transmitq 0, receiveq 1, ..."""
    call_fds: tuple[int, ...]
    def __init__(
        self,
        settings: GuestSettings,
        *,
        features: int,
        tag: int,
        peer_tag: int,
        sends: bool = True,
        peer_queues: int = 0,
    ) -> None:
        """Raises ValueError for settings that no device has; the text says which, and what to give."""
    def ring_addresses(self, index: int) -> tuple[int, int, int]:
        """Descriptor, driver and device area of a queue, as user addresses."""
    @property
    def base(self) -> int:
        """What SET_VRING_BASE says of a new ring."""
    def base_left(self, index: int) -> int:
        """What SET_VRING_BASE says of a ring whose back-end ended without telling its position.

        As with QEMU: of a split ring, the used index in guest memory; of a packed ring, which has none, its first base.
        Raises ValueError where the device is closed, or has no such queue.
        """
    @property
    def sent(self) -> tuple[int, int]:
        """Frames and Ethernet bytes given to the device."""
    @property
    def received(self) -> tuple[int, int, int, int, int, int]:
        """Frames, bytes, corrupt, reordered, duplicated, missing."""
    @property
    def by_queue(self) -> list[tuple[int, int]]:
        """Frames sent and received on each queue pair."""
    @property
    def kicks(self) -> int:
        """Notifications sent to the device."""
    @property
    def unreturned(self) -> int:
        """Sent frames whose buffers the device still holds."""
    @property
    def broken(self) -> bool:
        """Whether the device returned a buffer that it did not have. That queue is not used since."""
    def close(self) -> None:
        """Give the memory and the eventfds back. Idempotent. ValueError while a load runs on it."""
