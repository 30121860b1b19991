from fastvhost.dataplane.port import Port
from fastvhost.dataplane.worker import Worker

TICKS_PER_US: int

class BusyPort(Port):
    def __init__(
        self,
        name: str,
        *,
        pairs: int = 1,
        frames: int = 64,
        cost: int = 1000,
        bytes: int = 60,
        frame_cost: int = 0,
        bad: bool = False,
    ) -> None: ...
    def set_load(self, frames: int, cost: int) -> None: ...
    def set_full(self, full: bool) -> None: ...
    @property
    def visits(self) -> list[int]: ...
    @property
    def spent(self) -> int: ...

def start_rounds(worker: Worker) -> None: ...
def rounds(worker: Worker, n: int) -> int: ...
def regather(worker: Worker) -> None: ...
