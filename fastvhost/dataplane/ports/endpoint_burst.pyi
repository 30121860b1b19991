"""Frames of an endpoint that its program holds."""

from collections.abc import Iterator
from typing import Self

from fastvhost.dataplane.offload.asked import Offload

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
        """Copy one plain frame into every buffer of the burst, and give each its length."""
    def offload(self, index: int) -> Offload:
        """What is left to be done to a frame. Offload(), which is nothing, for all where Endpoint.offloads is False."""
    def set_offload(self, index: int, asked: Offload) -> None:
        """Leave that to whoever gets the frame; where it can not, the forwarder does it in its copy.

        The frame has its length by then. ValueError names the field that no frame of this length can have, and what
        helps; also where Endpoint.offloads is False. TypeError: `asked` is no Offload.
        """
    def stamp(self, at: int, first: int) -> None:
        """Number the frames: first, first + 1, ..., 32 bits in network order at this place of each."""
    def numbers(self, frame: bytes | bytearray | memoryview, at: int) -> list[int]:
        """The number at this place of each frame that is otherwise this one, byte for byte; -1 for others."""
    def release(self) -> None:
        """Give the buffers back. Idempotent."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
