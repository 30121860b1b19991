"""Capture files through libpcap, played into an endpoint and recorded from one."""

from fastvhost.dataplane.ports.endpoint import Endpoint

class CaptureFile:
    """What Player and Recorder share. A call may wait for the file without the GIL; a call of another thread meanwhile
    raises ValueError, and so does any call after close().
    """

    def close(self) -> None:
        """Idempotent. Where a call waits for the file, it is closed when that call returns."""

class Player(CaptureFile):
    """A capture file, open for reading. Raises PcapError where it is none, or no Ethernet."""

    skipped: int
    """Frames that could not be sent: cut short in the file, too short, or longer than the endpoint's buffers."""
    played: int
    """Frames that were sent."""
    ended: bool
    """The file is played to its end."""
    given_up: bool
    """To be set from any thread: play() uses no endpoint any more, even if it waits for the file now."""
    def __init__(self, path: str) -> None:
        """Waits, without the GIL, for the file's header and first frame; for a pipe that may be for ever."""
    def play(self, endpoint: Endpoint, most: int, until_us: int) -> int:
        """Send up to `most` frames while there are buffers. Returns how many were sent.

        until_us: only frames recorded up to so many microseconds after the first one; -1: any. Waits, without the GIL,
        until the next frame is read from the file.
        """
    def next_us(self) -> int:
        """Microseconds from the first frame to the next one, as recorded. -1: the file has ended, or play() runs."""

class Recorder(CaptureFile):
    """A capture file, open for writing: microseconds, Ethernet. Raises PcapError."""

    def __init__(self, path: str) -> None: ...
    def record(self, endpoint: Endpoint, most: int) -> int:
        """Write up to `most` frames that have arrived. Waits, without the GIL, for the file only. Returns how many."""
    def flush(self) -> bool:
        """Have everything recorded written to the file. False where that fails."""
