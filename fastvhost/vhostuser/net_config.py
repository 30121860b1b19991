"""The configuration space of a virtio-net device, as far as a port knows it. Virtio 1.2, section 5.1.4."""

from __future__ import annotations

import struct

LAYOUT = struct.Struct("<6sHHHIBBHI")  # mac, status, max_virtqueue_pairs, mtu, speed, duplex, and RSS's three


def read(queue_pairs: int, offset: int, count: int) -> bytes | None:
    """So many bytes of it, None beyond its end. Fields of features that are not offered are 0, and so is the MTU."""
    config = LAYOUT.pack(bytes(6), 0, queue_pairs, 0, 0, 0, 0, 0, 0)
    return config[offset : offset + count] if offset + count <= len(config) else None
