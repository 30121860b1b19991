"""Capture files through libpcap, played into an endpoint and recorded from one."""

from fastvhost.dataplane.ports.endpoint import Endpoint

class Player:
    """A capture file, open for reading. Raises PcapError where it is none, or no Ethernet."""

    skipped: int
    """Frames that could not be sent: cut short in the file, too short, or longer than the endpoint's buffers."""
    ended: bool
    """All of it was played."""
    def __init__(self, path: str) -> None: ...
    def play(self, endpoint: Endpoint, most: int, until_us: int) -> int:
        """Send up to so many frames without waiting. until_us: none recorded later after the first; -1: any.

        Returns how many went.
        """
    def next_us(self) -> int:
        """When the next frame was recorded, after the first; -1 where the file has ended."""
    def close(self) -> None:
        """Idempotent."""

class Recorder:
    """A capture file, open for writing: microseconds, Ethernet. Raises PcapError."""

    def __init__(self, path: str) -> None: ...
    def record(self, endpoint: Endpoint, most: int) -> int:
        """Write up to so many frames that have arrived, without waiting. Returns how many."""
    def flush(self) -> bool:
        """Everything recorded is in the file. False where the file cannot take it."""
    def close(self) -> None:
        """Idempotent."""
