"""The door through which control changes what workers see."""

class WorkerStuckError(RuntimeError):
    """A worker did not come to the door in time: it is blocked in the kernel, or its core is taken away."""

class Door:
    """Parks every worker between two bursts while a few fields are swapped. Ports use it; nobody else needs to."""

    def __init__(self) -> None: ...
