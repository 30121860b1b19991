"""An interface of this host through AF_XDP."""

from collections.abc import Sequence

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.host_port import HostFiles, HostPort
from fastvhost.dataplane.ports.xdp_socket import XdpSocket

class XdpFiles(HostFiles):
    """A new socket for each queue, and the port's positions in their rings. Made by the port."""

class XdpPort(HostPort):
    """Frames stay in memory shared with the kernel until the egress has copied them: one socket a queue pair."""

    def __init__(self, name: str, door: Door, queue_pairs: int = 1) -> None: ...
    def attach(self, sockets: Sequence[XdpSocket], longest: int) -> None:
        """Use one new socket for each pair, from the door on. They stay the caller's, open until detach() has returned.

        longest: as of set_longest().
        """
    def set_longest(self, frame_bytes: int) -> None:
        """Frames of more bytes drop as oversize, in both directions. Takes effect at the door."""
