"""Capture files through libpcap, played into an endpoint and recorded from one."""

from fastvhost.dataplane.ports.endpoint import Endpoint

class CaptureFile:
    """What both kinds have. A call may wait for the file without the GIL; another thread's call is refused meanwhile
    with ValueError, as is any after close().
    """

    def close(self) -> None:
        """Idempotent. As soon as a call that waits for the file has returned."""

class Player(CaptureFile):
    """A capture file, open for reading. Raises PcapError where it is none, or no Ethernet."""

    skipped: int
    """Frames that could not be sent: cut short in the file, too short, or longer than the endpoint's buffers."""
    played: int
    """Frames that were sent."""
    ended: bool
    """All of it was played."""
    given_up: bool
    """Set it from any thread: play() touches no endpoint any more, not even when the file answers at last."""
    def __init__(self, path: str) -> None:
        """Waits, without the GIL, until the file says what it is and has its first frame: a pipe may do so for ever."""
    def play(self, endpoint: Endpoint, most: int, until_us: int) -> int:
        """Send up to so many frames while there are buffers. until_us: none recorded later after the first; -1: any.

        Waits, without the GIL, for the file to tell the frame after each. Returns how many went.
        """
    def next_us(self) -> int:
        """When the next frame was recorded, after the first; -1 where the file has ended."""

class Recorder(CaptureFile):
    """A capture file, open for writing: microseconds, Ethernet. Raises PcapError."""

    def __init__(self, path: str) -> None: ...
    def record(self, endpoint: Endpoint, most: int) -> int:
        """Write up to so many frames that have arrived. Waits, without the GIL, for the file only. Returns how many."""
    def flush(self) -> bool:
        """Everything recorded is in the file. False where the file cannot take it."""
