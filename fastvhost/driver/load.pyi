"""The load: guests that send and receive as fast as their device lets them, in one thread that never sleeps."""

from typing import final

from fastvhost.driver.device import GuestDevice

@final
class Load:
    """Runs the traffic of some guests. The devices stay the caller's."""

    def __init__(self, *devices: GuestDevice) -> None: ...
    def run(self) -> None:
        """Until stop(). Call it in a thread of its own; the GIL is free meanwhile."""
    def step(self) -> int:
        """One burst each way at every guest. Returns frames received. Not while run() runs."""
    def flood(self) -> None:
        """Send, from now on or again."""
    def drain(self) -> None:
        """Send no more, keep receiving."""
    def stop(self) -> None:
        """run() returns."""
    def latency(self, seconds: float, gap_us: float, limit: int = 1_000_000) -> tuple[list[int], int]:
        """One frame in flight from the first guest to the second. Nanoseconds of each, and how many were lost."""
