"""The door through which control changes what workers see."""

class WorkerStuckError(RuntimeError):
    """A worker did not come to the door in time: it is blocked in the kernel, or its core is taken away.

    The text names it. What was to change did not.
    """

class Door:
    """What ports and workers of one forwarder share: which workers own lanes of which port.

    A port that changes has those workers stand still between two bursts, and no others. Ports use it; nobody else
    needs to.
    """

    def __init__(self) -> None: ...

class PortDoor:
    """The door as one port uses it. Made by the port."""

    passages: int
    """How often workers stood still for a change of this port."""
    def __init__(self, door: Door) -> None: ...
