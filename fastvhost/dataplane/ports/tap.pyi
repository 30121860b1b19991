"""A tap interface: frames to and from this host's network stack."""

from collections.abc import Sequence

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.host_port import HostPort

class TapPort(HostPort):
    """Reads and writes the file descriptors of a tap interface, one a queue, without offloads."""

    def __init__(self, name: str, door: Door, queues: int = 1) -> None: ...
    def attach(self, fds: Sequence[int], *, udp_segments: bool = False) -> None:
        """One non-blocking file descriptor a queue, borrowed until detach(). Through the door."""
