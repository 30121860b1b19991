"""What a queue and its ring say now, for show and diagnosis."""

from typing import NamedTuple

class QueueState(NamedTuple):
    """One queue as a worker sees it now, for show and diagnosis."""

    index: int  # type: ignore[assignment]  # a queue has an index, not a search function
    size: int
    live: bool
    """It was given to the data plane by start_queue and not stopped since."""
    started: bool
    """It was kicked, or needs no kick, or buffers were seen in it."""
    enabled: bool
    broken: str
    """Empty, or why the queue was stopped: one sentence."""
    avail_idx: int
    """In guest memory. Of a packed ring: next_avail, and 1 more where a chain is available."""
    used_idx: int
    """In guest memory. Of a packed ring: the index of its next used descriptor."""
    next_avail: int
    """The index that the worker takes next."""
    frames: int
    bytes: int
    kick_suppressed: bool
    interrupt_wanted: bool
    kicks: int
    """Kicks that a worker took from the kick fd before it slept; those not taken yet stand in the eventfd."""
    starved_seconds: float
    """Of a receiveq: from one delivery that found no room for a frame to the next, where that found none either."""
    available: int
    """Chains that the driver made available and no worker took: buffers, or frames. Of a packed ring: descriptors."""
