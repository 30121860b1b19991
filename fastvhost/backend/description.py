"""A front-end in words and numbers, for `fastvhost show`.

Reads, from another thread, what the control thread writes.
"""

from __future__ import annotations

from typing import Any

from fastvhost.backend import features
from fastvhost.backend.port_api import PortApi
from fastvhost.backend.rings import ConfiguredRing
from fastvhost.backend.session_state import SessionState


def describe(
    session: SessionState, peer_pid: int, port: PortApi, rings: int, **negotiated: object
) -> dict[str, Any]:
    """The front-end that is connected: its process, features, what else its protocol negotiated, memory and rings.

    rings: how many are always shown; further ones are shown where the front-end has set them up.
    """
    return {
        "peer_pid": peer_pid,
        "features": features.names(session.features or 0),
        **negotiated,
        "mtu": session.mtu or None,
        "status": session.status,
        "notified_by": _notified_by(*port.helper),
        "regions": [
            {
                "guest_addr": hex(region.guest_addr),
                "bytes": region.bytes,
                "user_addr": hex(region.user_addr),
                "mmap_offset": hex(region.mmap_offset),
            }
            for region in session.memory.regions
        ],
        "rings": [_ring(ring, port) for ring in session.rings if ring.index < rings or ring.size],
    }


def _notified_by(helper_runs: bool, held: int) -> str:
    """Who tells the driver that buffers were used: workers, or, where that takes long, a thread of its port."""
    by = "a thread of this port" if helper_runs else "workers"
    return f"{by}; {held} more threads held in write(2) by its front-end" if held else by


def _ring(ring: ConfiguredRing, port: PortApi) -> dict[str, Any]:
    seen = port.queue_state(ring.index)._asdict()
    addresses = ring.addresses
    return {
        "index": ring.index,
        "size": ring.size,
        "desc": hex(addresses.desc_user_addr) if addresses else None,
        "avail": hex(addresses.avail_user_addr) if addresses else None,
        "used": hex(addresses.used_user_addr) if addresses else None,
        "base": ring.base or 0,
        "kick": ring.kick >= 0,
        "call": ring.call >= 0,
        "err": ring.err >= 0,
        **{key: value for key, value in seen.items() if key not in ("index", "size")},
        "enabled": ring.enabled,
        "broken": ring.broken or seen["broken"] or ("its memory was removed" if ring.lost else ""),
    }
