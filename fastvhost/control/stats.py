"""Counters as plain dictionaries: one schema for --json, `fastvhost stats` and the control socket.

rx is what came from a port's VM, tx what went to it, as the forwarder sees them. Counters only grow; rates are made
from the difference of two snapshots and stand beside them under "rates".
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastvhost import __version__
from fastvhost.control.mac_upkeep import learning
from fastvhost.control.port_unit import PortUnit
from fastvhost.control.wiring import Wiring
from fastvhost.control.worker_thread import WorkerThread

Snapshot = dict[str, Any]

# Bits are those of the frames' bytes, without preamble, checksum and gap, which a frame has on an Ethernet.
BITS = 8
COUNTED = ("rx_frames", "rx_bytes", "tx_frames", "tx_bytes")
WORKED = ("rounds", "busy_rounds", "sleeps")


def snapshot(wiring: Wiring) -> Snapshot:
    """Every counter now."""
    reasons = wiring.parts.drop_reasons
    return {
        "version": __version__,
        "time": round(time.time(), 3),
        "uptime": round(time.monotonic() - wiring.started_at, 3),
        "ports": {unit.spec.name: _port(wiring, unit, reasons) for unit in wiring.ports},
        "workers": {thread.name: _worker(thread) for thread in wiring.workers},
    }


def _port(wiring: Wiring, unit: PortUnit, reasons: tuple[str, ...]) -> dict[str, Any]:
    counters = unit.port.counters()
    return {
        "number": unit.number,
        "kind": unit.spec.kind.name,
        "link": "up" if unit.port.link_up else "down",
        "rx_frames": counters.rx_frames,
        "rx_bytes": counters.rx_bytes,
        "rx_dropped": {reason: counters.rx_dropped.get(reason, 0) for reason in reasons},
        "tx_frames": counters.tx_frames,
        "tx_bytes": counters.tx_bytes,
        "tx_dropped": {reason: counters.tx_dropped.get(reason, 0) for reason in reasons},
        "cut": counters.cut,
        "segmented": counters.segmented,
        "copies": counters.copies,
        "calls": counters.calls,
        "learning": learning(wiring.bridge, unit.number),
    }


def _worker(thread: WorkerThread) -> dict[str, Any]:
    return {
        "core": thread.core_in_use,
        "last_core": thread.last_core,
        "wires": [list(wire) for wire in thread.wires],
        "rounds": thread.worker.rounds,
        "busy_rounds": thread.worker.busy_rounds,
        "busy_seconds": round(thread.worker.busy_seconds, 6),
        "sleeps": thread.worker.sleeps,
        "waiting": thread.worker.waiting,
    }


def with_rates(now: Snapshot, before: Snapshot | None) -> Snapshot:
    """The snapshot and, under "rates", what happened per second since an earlier one."""
    seconds = now["uptime"] - before["uptime"] if before else 0.0
    if before is None or seconds <= 0:
        return now
    ports = {
        name: _port_rates(port, before["ports"][name], seconds)
        for name, port in now["ports"].items()
        if name in before["ports"] and _went_on(port, before["ports"][name])
    }
    before_workers = before["workers"]
    workers = {name: _worker_rates(one, before_workers[name], seconds) for name, one in now["workers"].items()}
    return {**now, "rates": {"seconds": round(seconds, 3), "ports": ports, "workers": workers}}


def _went_on(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether the port was not removed and made anew meanwhile: then its counters begin at 0."""
    return all(now[key] >= before[key] for key in COUNTED)


def _port_rates(now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> dict[str, float]:
    def per_second(key: str) -> float:
        return float(now[key] - before[key]) / seconds

    return {
        "rx_frames": round(per_second("rx_frames"), 1),
        "rx_bits": round(per_second("rx_bytes") * BITS, 1),
        "tx_frames": round(per_second("tx_frames"), 1),
        "tx_bits": round(per_second("tx_bytes") * BITS, 1),
        "rx_dropped": round((sum(now["rx_dropped"].values()) - sum(before["rx_dropped"].values())) / seconds, 1),
        "tx_dropped": round((sum(now["tx_dropped"].values()) - sum(before["tx_dropped"].values())) / seconds, 1),
    }


def _worker_rates(now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> dict[str, float]:
    # Of time, not of rounds: an empty round takes a hundredth of the time of a full one.
    busy = (now["busy_seconds"] - before["busy_seconds"]) / seconds
    rates = {key: round((now[key] - before[key]) / seconds, 1) for key in WORKED}
    return {**rates, "busy": round(busy, 4)}


class History:
    """The last figures, so that rates over about the last second can be told without waiting for one."""

    def __init__(self, wiring: Wiring, spacing: float = 0.5) -> None:
        self._wiring = wiring
        self._spacing = spacing
        self._kept: deque[_Kept] = deque([_kept(wiring)], maxlen=3)

    def tick(self) -> None:
        """Keep figures now and then; call it often."""
        if time.monotonic() - self._wiring.started_at - self._kept[-1].uptime >= self._spacing:
            self._kept.append(_kept(self._wiring))

    def current(self) -> Snapshot:
        """Counters now, with rates since the oldest figures kept."""
        return with_rates(snapshot(self._wiring), self._kept[0].snapshot())


class _Kept(NamedTuple):
    """What rates are made of, without the dictionaries: with a thousand ports those take tens of milliseconds."""

    uptime: float
    ports: dict[str, tuple[int, int, int, int, int, int]]
    workers: dict[str, dict[str, float]]

    def snapshot(self) -> Snapshot:
        """What with_rates() reads of an earlier snapshot."""
        return {
            "uptime": self.uptime,
            "ports": {
                name: {**dict(zip(COUNTED, counts, strict=True)), "rx_dropped": {"": lost}, "tx_dropped": {"": refused}}
                for name, (*counts, lost, refused) in self.ports.items()
            },
            "workers": self.workers,
        }


def _kept(wiring: Wiring) -> _Kept:
    ports = {unit.spec.name: unit.port.totals() for unit in wiring.ports}
    worked = (*WORKED, "busy_seconds")
    workers = {thread.name: {key: getattr(thread.worker, key) for key in worked} for thread in wiring.workers}
    return _Kept(round(time.monotonic() - wiring.started_at, 3), ports, workers)
