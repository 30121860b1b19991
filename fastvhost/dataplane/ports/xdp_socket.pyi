"""AF_XDP sockets and the XDP program that feeds them, by the kernel's own calls: no library is needed."""

from typing import Final, Literal

LONGEST: Final[int]
"""The most bytes of a frame that fit a chunk in both directions."""

class XdpError(Exception):
    """A call that the kernel refused: which step of setting up it was, and the number in errno."""

    step: Literal["socket", "memory", "rings", "bind", "map", "program", "attach", "steer"]
    number: int
    def __init__(
        self, step: Literal["socket", "memory", "rings", "bind", "map", "program", "attach", "steer"], number: int
    ) -> None: ...

class XdpSocket:
    """A socket bound to one receive queue of an interface, with memory and rings of its own."""

    fd: int
    zero_copy: bool
    """Whether the driver itself moves frames to and from this memory. If not, the kernel copies them."""
    def __init__(self, interface_index: int, queue: int, copy: bool = False) -> None:
        """copy: do not even try zero-copy. Raises XdpError."""
    def dropped(self) -> int:
        """Frames that the kernel had no room for, so far."""
    def close(self) -> None:
        """Idempotent. While a port uses it, it is closed only when that port lets go of it (detach)."""

class Redirect:
    """The XDP program on an interface that hands frames of a queue to the socket for it; others pass to the host."""

    native: bool
    """Whether the driver runs it, or, slower, the stack does (generic mode)."""
    def __init__(self, interface_index: int, queues: int) -> None:
        """Attach it, steering nothing yet. Raises XdpError."""
    def steer(self, queue: int, socket: XdpSocket) -> None:
        """Hand frames of this queue to this socket from now on. Raises XdpError."""
    def close(self) -> None:
        """Take it off the interface. Idempotent."""
