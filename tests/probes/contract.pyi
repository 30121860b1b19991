"""What a worker does with a port, one call at a time, for tests of what every kind of port promises (port.pxd)."""

from collections.abc import Sequence

from fastvhost.dataplane.port import Port
from fastvhost.dataplane.ports.endpoint import Endpoint

class Caller:
    """Calls a port as the worker of its pair 0 does. The port stays whole as long as this is there."""

    def __init__(self, port: Port) -> None: ...
    @property
    def pairs(self) -> tuple[int, int]:
        """How many there are, and how many of them are active."""
    @property
    def counted(self) -> tuple[int, int, int]:
        """Frames and bytes received so far, and drops."""
    def receive(self) -> int: ...
    def frames(self) -> list[bytes]:
        """What was received last, as it is now."""
    def heads(self) -> list[tuple[int, int, int, int, int, int] | None]:
        """Of what was received last: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; None: plain."""
    def release(self, first: int, n: int) -> None: ...
    def deliver(
        self, frames: list[list[bytes]], heads: Sequence[tuple[int, int, int, int, int, int]] = ()
    ) -> tuple[int, int, int, int, int]:
        """As forward_burst does: super-frames are cut where the port takes none. heads: of the first frames.

        Each frame is a list of its pieces. Dealt with; what tx counts more of: frames, bytes, drops, spent.
        """
    def is_open(self) -> bool: ...
    def may_receive(self) -> bool: ...
    def wait_fd(self) -> tuple[int, bool]: ...
    def want_kicks(self, wanted: bool) -> None: ...
    def has_silent_work(self) -> bool: ...

def send_unchecked(endpoint: Endpoint, frame: bytes, head: tuple[int, int, int, int, int, int]) -> None:
    """As a program in Cython sends: nobody looks at what it asks for. head: as in Caller.heads."""
