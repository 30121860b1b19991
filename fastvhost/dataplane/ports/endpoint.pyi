"""A port that a program of this process owns: it sends and receives frames in memory shared with the worker."""

from collections.abc import Iterable, Iterator
from typing import Self

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import Port

class EndpointClosedError(Exception):
    """The forwarder behind an endpoint has ended: nothing comes from it any more, nothing gets through."""

class Burst:
    """Frames in the endpoint's memory: a sequence of writable memoryviews, the program's until release() or send().

    Received ones may be changed and sent back as they are, without a copy. A view kept after that shows memory that
    others use by then. Usable in a `with` block, which releases it at its end if nobody did before.
    """

    n: int
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> memoryview: ...
    def __iter__(self) -> Iterator[memoryview]: ...
    def resize(self, index: int, bytes: int) -> memoryview:
        """Let a frame have another length, 14 to Endpoint.slot_bytes. Its view, anew."""
    def fill(self, frame: bytes | bytearray | memoryview) -> None:
        """Copy one frame into every buffer of the burst, and give each its length."""
    def stamp(self, at: int, first: int) -> None:
        """Number the frames: first, first + 1, ..., 32 bits in network order at this place of each."""
    def numbers(self, frame: bytes | bytearray | memoryview, at: int) -> list[int]:
        """The number at this place of each frame that is otherwise this one, byte for byte; -1 for others."""
    def release(self) -> None:
        """Give the buffers back. Idempotent."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

class Endpoint(Port):
    """A port whose other end is the program itself.

    Frames are Ethernet frames without frame check sequence. What the forwarder delivers is copied once, into this
    endpoint's buffers; the program sees it there. What the program sends, it writes into buffers lent by the endpoint;
    the forwarder's one copy takes it from there. Any thread may call, one at a time.
    """

    slots: int
    """Buffers; half of them for each direction."""
    slot_bytes: int
    """Room for a frame: longer ones drop as oversize."""
    closed: bool
    def __init__(self, name: str, door: Door, *, slots: int = 1024, slot_bytes: int = 9216) -> None:
        """slots: a power of two from 4 to 65536. slot_bytes: 64 to 65600, rounded up to a multiple of 64."""
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
        Raises ValueError for a frame shorter than 14 or longer than slot_bytes; nothing of a burst is sent then.
        """
    async def recv_async(self, most: int = 64) -> Burst:
        """recv() for asyncio: waits without holding up the event loop."""
    async def lend_async(self, n: int, bytes: int = 64) -> Burst:
        """lend() for asyncio."""
    def fileno(self) -> int:
        """Readable when it is worth calling recv or lend again, after one of them came back empty. For select, poll."""
    def end(self) -> None:
        """The forwarder has ended: who waits is woken. Idempotent."""
