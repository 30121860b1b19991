from collections.abc import Callable

from fastvhost.driver.device import GuestDevice

class CommonTime:
    nanoseconds: int
    frames: int
    def __init__(
        self, step: Callable[[], int] | None = None, devices: tuple[GuestDevice, ...] = (), schedstat: int = -1
    ) -> None: ...
    def add(self, ns: int, own_ns: int, frames: int, waited_ns: int) -> int: ...
    def run(self, until: int) -> None: ...
