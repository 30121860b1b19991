from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.driver.device import GuestDevice

class PingPong:
    rounds: int
    driver_sleeps: int
    driver_stalls: int
    driver_longest_ns: int
    device_sleeps: int
    device_stalls: int
    device_longest_ns: int
    def __init__(
        self,
        device: GuestDevice,
        port: VirtioPort,
        *,
        seed: int,
        stall_seconds: float = 1.0,
        publish_fence: bool = True,
        sleep_fence: bool = True,
        clogged: bool = False,
    ) -> None: ...
    def drive(self, rounds: int) -> None: ...
    def serve(self) -> int: ...
    def stop(self) -> None: ...
