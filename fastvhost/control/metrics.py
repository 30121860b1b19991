"""The figures of a running fwd as Prometheus metrics.

Names, units and types follow prometheus.io, "Metric and label naming": counters end in _total, bytes are bytes. rx is
what came from a port's guest, tx what went to it, as everywhere in fwd. What a port never had is there with 0, so that
a rate has a beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from fastvhost.control.stats import Snapshot

Ports = Sequence[Mapping[str, Any]]
PREFIX = "fastvhost_"
STATES = ("up", "down")

# Key of a port in the snapshot, the metric's name, and its help.
PORT_COUNTERS = (
    ("rx_frames", "port_rx_frames", "Frames from this port's guest."),
    ("rx_bytes", "port_rx_bytes", "Bytes of these frames, without virtio-net headers."),
    ("tx_frames", "port_tx_frames", "Frames to this port's guest."),
    ("tx_bytes", "port_tx_bytes", "Bytes of these frames, without virtio-net headers."),
    ("cut", "port_cut_frames", "Super-frames that this port got in pieces."),
    ("segmented", "port_segments", "Those pieces."),
    ("copies", "port_copies", "Copies of this port's frames beyond one each: floods and mirrors."),
    ("calls", "port_notifications", "Notifications written to this port's driver."),
)
LEARNING_COUNTERS = (
    ("learned", "table_learned", "Addresses learned at this port."),
    ("moved", "table_moved", "Addresses that moved to this port from another one."),
    ("evicted", "table_evicted", "Addresses of this port that made room for others."),
)
WORKER_COUNTERS = (
    ("rounds", "worker_rounds", "Rounds over a worker's lanes."),
    ("busy_rounds", "worker_busy_rounds", "Those in which frames moved."),
    ("busy_seconds", "worker_busy_seconds", "Time that these rounds took."),
    ("sleeps", "worker_sleeps", "How often a worker slept."),
)
# Key of a ring in what `show` tells, the metric's name, and its help.
RING_COUNTERS = (
    ("frames", "ring_frames", "Frames that passed this virtqueue."),
    ("starved_seconds", "ring_starved_seconds", "Time that frames found no buffers in this receiveq."),
    ("kicks", "ring_kicks", "Kicks of the driver that a worker took before it slept."),
)


class FwdCollector(Collector):
    """Reads figures when it is asked, in the thread that asks: no worker knows of it."""

    def __init__(self, figures: Callable[[], Snapshot], ports: Callable[[], Ports]) -> None:
        """figures: all counters now. ports: what `fastvhost show --json` prints."""
        self._figures = figures
        self._ports = ports

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client for each request."""
        figures = self._figures()
        yield InfoMetricFamily(f"{PREFIX}build", "The version of fastvhost.", value={"version": figures["version"]})
        yield GaugeMetricFamily(f"{PREFIX}uptime_seconds", "Since the start.", value=figures["uptime"])
        yield from _of_ports(figures["ports"])
        yield from _of_table(figures["ports"])
        yield from _of_workers(figures["workers"])
        yield from _of_rings(self._ports())


def _of_ports(ports: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    up = GaugeMetricFamily(f"{PREFIX}port_up", "Whether a guest may send and receive here.", labels=("port", "kind"))
    for name, port in ports.items():
        up.add_metric((name, port["kind"]), float(port["link"] == "up"))
    yield up
    by_state = GaugeMetricFamily(f"{PREFIX}ports", "How many ports have their link up, or down.", labels=("state",))
    for state in STATES:
        by_state.add_metric((state,), sum(port["link"] == state for port in ports.values()))
    yield by_state
    yield from _counters("port", PORT_COUNTERS, ports)
    dropped = CounterMetricFamily(
        f"{PREFIX}port_dropped_frames",
        "Frames that went no further: rx, taken from this port's guest; tx, meant for this port.",
        labels=("port", "direction", "reason"),
    )
    for name, port in ports.items():
        for direction in ("rx", "tx"):
            for reason, frames in port[f"{direction}_dropped"].items():
                dropped.add_metric((name, direction, reason), frames)
    yield dropped


def _of_table(ports: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Nothing along wires."""
    learning = {name: port["learning"] for name, port in ports.items() if port["learning"]}
    if not learning:
        return
    entries = GaugeMetricFamily(
        f"{PREFIX}table_addresses", "Addresses that the forwarding table has of this port.", labels=("port",)
    )
    for name, counts in learning.items():
        entries.add_metric((name,), counts["addresses"])
    yield entries
    yield from _counters("port", LEARNING_COUNTERS, learning)
    refused = CounterMetricFamily(
        f"{PREFIX}table_refused", "Source addresses of this port that were not learned.", labels=("port", "reason")
    )
    for name, counts in learning.items():
        for reason, times in counts["refused"].items():
            refused.add_metric((name, reason), times)
    yield refused


def _of_workers(workers: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    yield from _counters("worker", WORKER_COUNTERS, workers)
    waiting = GaugeMetricFamily(
        f"{PREFIX}worker_waiting_frames", "Frames in hand that wait for room.", labels=("worker",)
    )
    core = GaugeMetricFamily(
        f"{PREFIX}worker_core", "The core that a worker is pinned to; none where it is not.", labels=("worker",)
    )
    for name, worker in workers.items():
        waiting.add_metric((name,), worker["waiting"])
        if worker["core"] is not None:
            core.add_metric((name,), worker["core"])
    yield waiting
    yield core


def _of_rings(ports: Ports) -> Iterator[Metric]:
    labels = ("port", "queue", "pair")
    size = GaugeMetricFamily(f"{PREFIX}ring_size", "Entries of a virtqueue.", labels=labels)
    available = GaugeMetricFamily(
        f"{PREFIX}ring_available",
        "Chains that the driver made available and no worker took yet: buffers to receive into, frames to be sent. "
        "Of a packed ring in descriptors.",
        labels=labels,
    )
    broken = GaugeMetricFamily(f"{PREFIX}ring_broken", "Whether its driver broke the ring's rules.", labels=labels)
    counters = [CounterMetricFamily(f"{PREFIX}{name}", text, labels=labels) for _, name, text in RING_COUNTERS]
    for port in ports:
        for ring in port.get("rings", ()):
            if not ring["size"]:
                continue
            of = (port["name"], "transmitq" if ring["index"] % 2 else "receiveq", str(ring["index"] // 2))
            size.add_metric(of, ring["size"])
            available.add_metric(of, ring["available"])
            broken.add_metric(of, float(bool(ring["broken"])))
            for family, (key, _, _) in zip(counters, RING_COUNTERS, strict=True):
                family.add_metric(of, ring[key])
    yield from (size, available, broken, *counters)


def _counters(
    label: str, table: Iterable[tuple[str, str, str]], things: Mapping[str, Mapping[str, Any]]
) -> Iterator[Metric]:
    for key, name, text in table:
        family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=(label,))
        for thing, figures in things.items():
            family.add_metric((thing,), figures[key])
        yield family
