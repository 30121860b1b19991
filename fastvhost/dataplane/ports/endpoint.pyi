"""A port that a program of this process owns: it sends and receives frames in memory shared with the worker."""

from collections.abc import Iterable

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.endpoint_burst import Burst
from fastvhost.dataplane.ports.endpoint_slots import EndpointSlots

class EndpointClosedError(Exception):
    """The forwarder behind an endpoint has ended: nothing comes from it any more, nothing gets through."""

class Endpoint(EndpointSlots):
    """A port whose other end is the program itself.

    Frames are Ethernet frames without frame check sequence. What the forwarder delivers is copied once, into this
    endpoint's buffers; the program sees it there. What the program sends, it writes into buffers lent by the endpoint;
    the forwarder's one copy takes it from there. Any thread may call, one at a time.
    """

    closed: bool
    offloads: bool
    """Whether frames may leave a checksum or segmentation to whoever gets them (Burst.offload), both ways.

    If not, all that arrive are finished: checksums filled in, super-frames cut into frames as their gso_size says.
    """
    def __init__(
        self, name: str, door: Door, *, slots: int = 1024, slot_bytes: int | None = None, offloads: bool = False
    ) -> None:
        """slots: a power of two from 4 to 65536. slot_bytes: 64 to 65600, rounded up to a multiple of 64.

        None: 9216 bytes, or 65600 with offloads, where it must be 65549 at least. ValueError for others.
        """
    def recv(self, most: int = 64, timeout: float | None = None) -> Burst:
        """Up to `most` frames that have arrived, at least one. timeout: seconds; None waits for ever, 0 only looks.

        After the time is over: an empty burst. Raises EndpointClosedError once the forwarder has ended and all that
        arrived before was received.
        """
    def wait(self, timeout: float) -> bool:
        """Until frames have arrived, or so many seconds are over: whether there are any. Raises as recv does."""
    def lend(self, n: int, bytes: int = 64, timeout: float | None = None) -> Burst:
        """Up to n empty buffers of so many bytes to write frames into, at least one. timeout: as for recv.

        Their content is undefined. All of them are out or on their way: an empty burst after the time is over.
        """
    def send(self, burst: Burst | Iterable[bytes | bytearray | memoryview], timeout: float | None = None) -> int:
        """Send a burst, lent or received: it goes at once and whole, without a copy. Or copies of such frames.

        Returns how many went; fewer than all only where frames had to wait for buffers longer than the timeout.
        Raises ValueError for a frame shorter than 14 or longer than slot_bytes, or one whose offload does not fit its
        length any more; nothing of a burst is sent then. Copies are of plain frames.
        """
    async def recv_async(self, most: int = 64) -> Burst:
        """recv() for asyncio: waits without holding up the event loop."""
    async def lend_async(self, n: int, bytes: int = 64) -> Burst:
        """lend() for asyncio."""
    def fileno(self) -> int:
        """Readable when it is worth calling recv or lend again, after one of them came back empty. For select, poll."""
    def end(self) -> None:
        """The forwarder has ended: who waits is woken. Idempotent."""
