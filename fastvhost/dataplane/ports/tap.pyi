"""A tap interface: frames to and from this host's network stack."""

from collections.abc import Sequence

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.host_port import HostPort

class TapPort(HostPort):
    """Reads and writes the file descriptors of a tap interface, one a queue, with offloads."""

    def __init__(self, name: str, door: Door, queues: int = 1) -> None: ...
    def attach(self, fds: Sequence[int], *, udp_segments: bool = False) -> None:
        """Use these file descriptors, one for each queue, non-blocking, borrowed until detach(). At the door.

        udp_segments: the stack takes super-frames of UDP (TUNSETOFFLOAD with TUN_F_USO4 and USO6).
        """
