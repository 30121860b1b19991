"""What ports towards this host make of frames that its stack left unfinished, one frame at a time."""

def cut(frame: bytes, gso_type: int, gso_bytes: int, csum_start: int, csum_offset: int) -> list[bytes]:
    """What a packet port makes of a frame with such a header: pieces, or nothing where it has to refuse it."""

def finish(frame: bytes) -> bytes:
    """The frame as an XDP port hands it on, whose checksum its sender may have left unfinished."""
