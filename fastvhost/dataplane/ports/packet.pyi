"""An interface of this host through AF_PACKET, with a ring for what arrives."""

import mmap

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.host_port import HostFiles, HostPort

class PacketFiles(HostFiles):
    """A ring, and the port's position in it. Made by the port."""

class PacketPort(HostPort):
    """Reads a TPACKET_V3 ring, sends with sendmmsg straight from where frames lie."""

    def __init__(self, name: str, door: Door) -> None: ...
    def attach(
        self,
        ring: mmap.mmap,
        block_bytes: int,
        receive_fd: int,
        send_fd: int,
        queue_fd: int,
        *,
        udp_segments: bool = False,
    ) -> None:
        """Use this ring and these sockets, all borrowed until detach(). Takes effect at the door.

        ring: a socket's mapped TPACKET_V3 ring, with PACKET_VNET_HDR. queue_fd sends through the interface's queue,
        send_fd past it. udp_segments: the kernel takes super-frames of UDP. ValueError: the ring has no room for a
        block, or block_bytes is less than a page.
        """
