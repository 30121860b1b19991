"""Super-frames and unfinished checksums as an egress gets them that takes none."""

from collections.abc import Sequence

def cut(
    frame: bytes,
    gso_type: int,
    gso_size: int,
    start: int,
    offset: int,
    *,
    parts: Sequence[int] = (),
    room: int = 64,
    accepts: int = 0,
) -> list[bytes]:
    """What arrives of a frame that lies in parts of so many bytes, and the rest. Empty: its header is refused."""

def finish(frame: bytes) -> bytes:
    """The frame as a neighbour gets it from an XDP port, whose checksum its sender may have left unfinished."""
