"""The configuration space of a virtio-net device, for front-ends that ask the back-end. Virtio 1.2, section 5.1.4.

User-mode Linux asks; QEMU, Cloud Hypervisor and DPDK's virtio-user have a configuration space of their own. Nothing in
it changes while a front-end is connected: its link is up as long as it is served, whatever the port at the other end of
the wire does. So VHOST_USER_BACKEND_CONFIG_CHANGE_MSG is never sent, and the back-end channel for it is not offered.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.features import F_VERSION_1, NET_F_MAC, NET_F_MTU, NET_F_STATUS, has, mask

LAYOUT = struct.Struct("<6sHHHIBBHI")  # mac, status, max_virtqueue_pairs, mtu, speed, duplex, and RSS's three
MAC_BYTES = 6
LINK_UP = 1
USUAL_MTU = 1500
"""The MTU that a driver is told where none was set: Ethernet's. A driver begins with the MTU that it is told, so the
largest possible one (65535) would be a bad answer."""
LEAST_MTU, MOST_MTU = 68, 65535
"""Section 5.1.4.1."""


class DeviceSettings(NamedTuple):
    """What the operator set for one port's device. mac: six bytes, or empty. mtu: the largest one; 0: not set."""

    mac: bytes = b""
    mtu: int = 0

    @property
    def features(self) -> int:
        """Feature bits that these settings add to those of every device."""
        return mask(NET_F_MAC) if self.mac else 0


PLAIN = DeviceSettings()
"""A device for which nothing was set."""


def is_told(device: DeviceSettings, queue_pairs: int) -> bool:
    """Whether the protocol feature CONFIG is offered. Only where there is something to tell:

    QEMU warns at each start of a back-end that offers it.
    """
    return queue_pairs > 1 or device != PLAIN


class NetConfig:
    """The configuration space as one front-end sees it."""

    def __init__(self, device: DeviceSettings, queue_pairs: int, offered: int) -> None:
        """offered: feature bits. Fields of a feature that is not offered read as 0."""
        self._device, self._pairs, self._offered = device, queue_pairs, offered
        self.mac = device.mac

    def read(self, offset: int, count: int, mtu: int) -> bytes | None:
        """`count` bytes at `offset`, None beyond the end. mtu: what the front-end set itself (NET_SET_MTU), or 0."""
        status = LINK_UP if has(self._offered, NET_F_STATUS) else 0
        largest = (mtu or self._device.mtu or USUAL_MTU) if has(self._offered, NET_F_MTU) else 0
        config = LAYOUT.pack(self.mac, status, self._pairs, largest, 0, 0, 0, 0, 0)
        return config[offset : offset + count] if offset + count <= len(config) else None

    def write(self, offset: int, data: bytes, flags: int, features: int | None) -> None:
        """What the driver writes. Raises ProtocolError for all but the MAC of a legacy driver, section 5.1.4.

        Such a driver has no other way to tell its address; it writes byte by byte. Only later reads of the MAC depend
        on it, since addresses in frames are not looked at. flags: 0 for a driver's write, 1 for a migration's.
        """
        if features is None or has(features, F_VERSION_1) or not has(features, NET_F_MAC):
            raise ProtocolError("nothing of this device's configuration can be written")
        if flags or not data or offset + len(data) > MAC_BYTES:
            raise ProtocolError(
                f"{len(data)} bytes at {offset} of its configuration: only the MAC, bytes 0 to 5, can be written"
            )
        self.mac = self.mac[:offset] + data + self.mac[offset + len(data) :]

    def check_mtu(self, mtu: int) -> None:
        """Check the MTU that a front-end sets. Raises ProtocolError."""
        most = self._device.mtu or MOST_MTU
        if not LEAST_MTU <= mtu <= most:
            at_port = ", the mtu= of this port; raise it there" if self._device.mtu else ""
            raise ProtocolError(f"MTU {mtu} is not within {LEAST_MTU} to {most}{at_port}")


def text(mac: bytes) -> str:
    """52:54:00:00:00:01."""
    return mac.hex(":")
