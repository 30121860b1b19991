"""Frames of an endpoint that its program holds."""

from collections.abc import Iterator
from typing import Self

from fastvhost.dataplane.offload.asked import Offload

class Burst:
    """Frames in the endpoint's memory: a sequence of writable memoryviews, the program's until release() or send().

    Received ones may be changed and sent back as they are, without a copy. A view that is kept after release() or
    send() shows memory that has other users by then. The end of a `with` block releases a burst, unless it was released
    or sent before.
    """

    n: int
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> memoryview: ...
    def __iter__(self) -> Iterator[memoryview]: ...
    def resize(self, index: int, bytes: int) -> memoryview:
        """Give a frame another length, 14 to Endpoint.slot_bytes. Returns its new view."""
    def fill(self, frame: bytes | bytearray | memoryview) -> None:
        """Copy one plain frame into every buffer of the burst; each gets the length of that frame."""
    def offload(self, index: int) -> Offload:
        """What is left to be done to a frame. Offload() means nothing, as always where Endpoint.offloads is False."""
    def set_offload(self, index: int, asked: Offload) -> None:
        """Leave that to the receiver of the frame. What the receiver cannot do, the forwarder does in its copy.

        Give the frame its length first. ValueError names the field that no frame of this length can have, and what
        helps; also where Endpoint.offloads is False. TypeError: `asked` is no Offload.
        """
    def stamp(self, at: int, first: int) -> None:
        """Number the frames: first, first + 1, ..., 32 bits in network order, `at` bytes into each."""
    def numbers(self, frame: bytes | bytearray | memoryview, at: int) -> list[int]:
        """The number `at` bytes into each frame that equals `frame` in all other bytes; -1 for frames that do not."""
    def release(self) -> None:
        """Give the buffers back. Idempotent."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
