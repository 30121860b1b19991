"""The load: guests that send and receive as fast as their device lets them, all in one thread."""

from typing import final

from fastvhost.driver.device import GuestDevice

@final
class Load:
    """Runs the traffic of some guests. The devices stay the caller's.

    sleeps: run() blocks while there is nothing to do, until a device notifies it; else it never sleeps.
    """

    naps: int
    """How often it slept."""
    stalls: int
    """How often a second passed with something to do and no notification: each is a lost one."""
    def __init__(self, *devices: GuestDevice, sleeps: bool = False) -> None: ...
    def run(self) -> None:
        """Until stop(). Call it in a thread of its own; the GIL is free meanwhile."""
    def step(self) -> int:
        """One burst each way at every queue pair. Returns frames received. Not while run() runs."""
    def flood(self) -> None:
        """Send, from now on or again."""
    def drain(self) -> None:
        """Send no more, keep receiving."""
    def stop(self) -> None:
        """run() returns."""
    def latency(self, seconds: float, gap_us: float, limit: int = 1_000_000) -> tuple[list[int], int]:
        """Frames from the first guest to the second, one in flight at a time. Nanoseconds of each; the number lost."""
    def latency_under_load(
        self, seconds: float, frames_per_second: float = 0.0, limit: int = 100_000
    ) -> tuple[list[int], float]:
        """One-way nanoseconds from the first guest to the second of frames picked out of a flood, or of so many frames
        per second and sending queue pair. Also, the frames per second that the guests received meanwhile."""
