"""An interface of this host through AF_PACKET, with a ring for what arrives."""

import mmap

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.host_port import HostFiles, HostPort

class PacketFiles(HostFiles):
    """A ring and where its port is in it. Made by the port."""

class PacketPort(HostPort):
    """Reads a TPACKET_V3 ring, sends with sendmmsg straight from where frames lie."""

    def __init__(self, name: str, door: Door) -> None: ...
    def attach(self, ring: mmap.mmap, block_bytes: int, receive_fd: int, send_fd: int, queue_fd: int) -> None:
        """ring: a socket's mapped TPACKET_V3 ring, with PACKET_VNET_HDR. All borrowed until detach(). The door.

        queue_fd sends by way of the interface's queue, send_fd past it. ValueError: the blocks do not fit.
        """
