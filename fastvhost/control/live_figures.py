"""What `fastvhost top` asks for again and again: the figures that move, in few bytes.

With a thousand ports an answer to `stats` is a megabyte, mostly reasons for which nothing was dropped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastvhost import __version__
from fastvhost.control.port_parts import RingFigures
from fastvhost.control.port_unit import PortUnit
from fastvhost.control.stats import COUNTED, WORKED
from fastvhost.control.wiring import Wiring
from fastvhost.control.worker_thread import WorkerThread

FULL, EMPTY = 1.0, 0.0


def figures(wiring: Wiring) -> dict[str, Any]:
    """Counters now. "started" tells two fwd apart, one of which took the other's place."""
    return {
        "version": __version__,
        "started": wiring.started_at,
        "uptime": round(time.monotonic() - wiring.started_at, 3),
        "ports": {unit.spec.name: _port(unit) for unit in wiring.ports},
        "workers": {thread.name: _worker(thread) for thread in wiring.workers},
    }


def _port(unit: PortUnit) -> dict[str, Any]:
    counters = unit.port.counters()
    about: dict[str, Any] = {
        "number": unit.number,
        "kind": unit.spec.kind.name,
        "link": "up" if unit.port.link_up else "down",
        **{key: getattr(counters, key) for key in COUNTED},
        "rx_dropped": {reason: count for reason, count in counters.rx_dropped.items() if count},
        "tx_dropped": {reason: count for reason, count in counters.tx_dropped.items() if count},
        "calls": counters.calls,
    }
    if rings := unit.port.rings():
        about["rings"] = _rings(rings)
    return about


def _rings(rings: Sequence[RingFigures]) -> dict[str, Any]:
    """Of a guest with several queue pairs: the receiveq with the fewest buffers, the transmitq with most frames.

    A sum would hide a queue that starves behind another one that nobody uses.
    """
    receiveqs = [ring for ring in rings if ring.index % 2 == 0]
    transmitqs = [ring for ring in rings if ring.index % 2]
    return {
        "free": round(min(map(_fill, receiveqs), default=FULL), 4),
        "queued": round(max(map(_fill, transmitqs), default=EMPTY), 4),
        "starved": {ring.index // 2: round(ring.starved_seconds, 3) for ring in receiveqs if ring.starved_seconds},
        "kicks": sum(ring.kicks for ring in rings),
        "broken": sum(bool(ring.broken) for ring in rings),
    }


def _fill(ring: RingFigures) -> float:
    return ring.available / ring.size if ring.size else EMPTY


def _worker(thread: WorkerThread) -> dict[str, Any]:
    worker = thread.worker
    return {
        "core": thread.core_in_use,
        "last_core": thread.last_core,
        **{key: getattr(worker, key) for key in (*WORKED, "waiting")},
        "busy_seconds": round(worker.busy_seconds, 6),
    }
