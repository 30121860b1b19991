"""Checksums and super-frames of the host's stack, done in software. Nothing of it is for Python but a look at it."""

def cut(frame: bytes, gso_type: int, gso_bytes: int, csum_start: int, csum_offset: int) -> list[bytes]:
    """What a port makes of a frame with such a header: pieces, or nothing where it has to refuse it. For tests."""
