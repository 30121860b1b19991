"""The most that this machine allows: frames from one guest to another by one copy each, with no checks."""

from typing import final

from fastvhost.driver.device import GuestDevice

@final
class CopyLimit:
    """A bare wire between two guests with split rings and buffers that are not mergeable."""

    def __init__(self, a: GuestDevice, b: GuestDevice) -> None: ...
    def step(self) -> int:
        """One burst each way. Returns the frames moved. Not while run() runs."""
    def run(self) -> None:
        """Until stop(). The GIL is free meanwhile."""
    def stop(self) -> None:
        """run() returns."""
