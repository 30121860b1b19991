"""What a ring must be like to start, and the error that says what is wrong with it."""

class RingRefusedError(ValueError):
    """A queue cannot start as configured. The text names the ring, the reason and the remedy."""

def need_size_and_base(index: int, size: int, base: int, packed: bool) -> None:
    """Raises RingRefusedError for a size (entries) or a base (SET_VRING_BASE) that no ring of this format has."""
