"""The door through which control changes what workers see."""

class WorkerStuckError(RuntimeError):
    """A worker did not come to the door in time: it is blocked in the kernel, or its core is taken away.

    The text names it. What was to change did not.
    """

class Door:
    """What ports and workers of one forwarder share: which workers own lanes of which port.

    A port that changes waits for those workers to come by between two bursts, and for no others. Ports use it; nobody
    else needs to. 62 workers are the most.
    """

    def __init__(self) -> None: ...

class PortDoor:
    """The door as one port uses it. Made by the port."""

    passages: int
    """How often a change of this port took effect."""
    def __init__(self, door: Door) -> None: ...
