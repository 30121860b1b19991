"""Two built-in guests behind two vhost-user sockets: the load for the demo, the benchmarks and the tests.

(This stub stands for guests.py until that lands.)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

class Direction(NamedTuple):
    """Frames from one guest to the other, so far."""

    sent_frames: int
    """Given to the back-end, in flight ones included."""
    sent_bytes: int
    """Ethernet bytes, without the virtio-net header."""
    frames: int
    """Received, in order and intact or not."""
    bytes: int
    corrupt: int
    """Received with a wrong length, header, number or content."""
    reordered: int
    """Received after a frame that was sent later."""
    duplicated: int
    lost: int
    """Sent and never received: while running, gaps in the numbers; after stop(), everything that did not arrive."""

class Counters(NamedTuple):
    """A snapshot of both directions."""

    a_to_b: Direction
    b_to_a: Direction
    @property
    def frames(self) -> int:
        """Received, both directions."""
    @property
    def bytes(self) -> int: ...
    @property
    def corrupt(self) -> int: ...
    @property
    def reordered(self) -> int: ...
    @property
    def duplicated(self) -> int: ...
    @property
    def lost(self) -> int: ...

class Latency(NamedTuple):
    """One-way latency with one frame in flight, from guest A to guest B, in microseconds."""

    p50: float
    p99: float
    p999: float
    worst: float
    samples: int
    lost: int

class GuestsError(Exception):
    """The guests cannot start or went wrong. One line: the thing, the reason, the remedy."""

class Guests:
    """Guest A and guest B: a virtio-net driver each, both in one thread that never sleeps while they run.

    size: Ethernet bytes of every frame (without FCS), 60 at the least, or "imix" (7 x 64, 4 x 594, 1 x 1518).
    both_ways: B sends too. queue_size: ring size, a power of two. core: CPU to pin the thread to.
    content: "none" sends frames as they are, "numbers" numbers each and checks number, length and a check word,
    "whole" fills and checks every byte.
    mergeable, indirect, event_idx: features wished for; what the back-end does not offer is done without.
    pieces: descriptors per sent frame, header included; 1 is one buffer with the header in front.
    indirect=True puts them into a table of descriptors. kick: notify the back-end when it asks for it; False: never but
    once, for a back-end that polls. listen: the guests listen on the sockets and the back-end connects.
    """

    def __init__(
        self,
        a_path: str,
        b_path: str,
        *,
        size: int | Literal["imix"] = 64,
        both_ways: bool = True,
        queue_size: int = 1024,
        core: int | None = None,
        content: Literal["none", "numbers", "whole"] = "numbers",
        mergeable: bool = True,
        indirect: bool = False,
        event_idx: bool = True,
        pieces: int = 1,
        kick: bool = True,
        listen: bool = False,
        timeout: float = 10.0,
    ) -> None: ...
    def connect(self) -> None:
        """Connect both guests and start their rings; nothing is sent. Raises GuestsError after `timeout` seconds."""
    def start(self) -> None:
        """Connect if that is still to be done, then flood, in a thread of its own. Returns at once."""
    def counters(self) -> Counters:
        """What went through so far. From any thread."""
    @property
    def connected(self) -> bool:
        """Both back-end connections are up."""
    def latency(self, seconds: float = 2.0, gap_us: float = 5.0) -> Latency:
        """One frame in flight from A to B, again and again. Instead of start(), or after stop_load()."""
    def stop_load(self) -> Counters:
        """Send no more, wait until everything sent is received or known lost (2 s at the most)."""
    def stop(self) -> Counters:
        """stop_load(), then stop the rings and disconnect. Idempotent. Final figures."""
    def __enter__(self) -> Guests:
        """start(); the end of the block calls stop()."""
    def __exit__(self, *exc: object) -> None: ...
