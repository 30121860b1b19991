"""A port that a program of this process owns: it sends and receives frames in memory shared with the worker."""

from collections.abc import Iterable

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.endpoint_burst import Burst
from fastvhost.dataplane.ports.endpoint_slots import EndpointSlots

class EndpointClosedError(Exception):
    """The forwarder of an endpoint has ended: no frame can be sent or received any more."""

class Endpoint(EndpointSlots):
    """A port whose other end is the program itself.

    Frames are Ethernet frames without frame check sequence. What the forwarder delivers is copied once, into this
    endpoint's buffers; the program sees it there. What the program sends, it writes into buffers lent by the endpoint;
    the forwarder's one copy takes it from there. Any thread may call, one at a time.
    """

    closed: bool
    offloads: bool
    """Whether frames, both ways, may leave a checksum or segmentation to their receiver (Burst.offload).

    If not, all frames that arrive are finished: checksums filled in, super-frames cut into frames of gso_size bytes.
    """
    def __init__(
        self, name: str, door: Door, *, slots: int = 1024, slot_bytes: int | None = None, offloads: bool = False
    ) -> None:
        """slots: a power of two from 4 to 65536. slot_bytes: 64 to 65600, rounded up to a multiple of 64.

        None: 9216 bytes, or 65600 with offloads. With offloads it must be 65549 at least. ValueError for others.
        """
    def recv(self, most: int = 64, timeout: float | None = None) -> Burst:
        """Up to `most` frames that have arrived, at least one. timeout: seconds; None waits for ever, 0 only looks.

        After the time is over: an empty burst. Raises EndpointClosedError once the forwarder has ended and all that
        arrived before was received.
        """
    def wait(self, timeout: float) -> bool:
        """Wait until frames have arrived, for `timeout` seconds at most. Whether there are any. Raises as recv does."""
    def lend(self, n: int, bytes: int = 64, timeout: float | None = None) -> Burst:
        """Up to n empty buffers of this many bytes to write frames into, at least one. timeout: as for recv.

        Their content is undefined. An empty burst where no buffer came free in time.
        """
    def send(self, burst: Burst | Iterable[bytes | bytearray | memoryview], timeout: float | None = None) -> int:
        """Send all frames of a burst, lent or received, at once and without a copy; or copies of other frames.

        Returns how many were sent; fewer than all only where copies had to wait for buffers longer than the timeout.
        Raises ValueError for a frame shorter than 14 or longer than slot_bytes, or one whose offload does not fit its
        length any more; nothing of a burst is sent then. Copies are plain frames, without offloads.
        """
    async def recv_async(self, most: int = 64) -> Burst:
        """recv() for asyncio: waits without holding up the event loop."""
    async def lend_async(self, n: int, bytes: int = 64) -> Burst:
        """lend() for asyncio."""
    def fileno(self) -> int:
        """Readable when it is worth calling recv or lend again, after one of them came back empty. For select, poll."""
    def end(self) -> None:
        """The forwarder has ended: threads that wait here return. Idempotent."""
