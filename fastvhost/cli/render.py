"""Counters as tables: the same for `fastvhost stats`, --stats-period and the last figures of fwd."""

from __future__ import annotations

from typing import Any

from fastvhost.cli.text import si, table

HEADER = ("port", "link", "rx frames", "rx/s", "rx bit/s", "tx frames", "tx/s", "tx bit/s", "dropped", "dropped/s")
ALIGN = "llrrrrrrrr"


def stats(snapshot: dict[str, Any]) -> str:
    """A table of ports, a line per drop reason that occurred, a line per worker."""
    rates = snapshot.get("rates", {"ports": {}, "workers": {}})
    rows = [HEADER, *(_row(name, port, rates["ports"].get(name)) for name, port in snapshot["ports"].items())]
    lines = [table(rows, ALIGN)]
    lines += [line for name, port in snapshot["ports"].items() for line in _drops(name, port)]
    lines += [line for name, port in snapshot["ports"].items() for line in _learning(name, port.get("learning"))]
    lines += [_worker(name, worker, rates["workers"].get(name)) for name, worker in snapshot["workers"].items()]
    return "\n".join(lines)


def _row(name: str, port: dict[str, Any], rate: dict[str, float] | None) -> tuple[str, ...]:
    def per_second(*keys: str) -> str:
        return si(sum(rate[key] for key in keys)) if rate else "-"

    dropped = sum(port["rx_dropped"].values()) + sum(port["tx_dropped"].values())
    return (
        name,
        port["link"],
        str(port["rx_frames"]),
        per_second("rx_frames"),
        per_second("rx_bits"),
        str(port["tx_frames"]),
        per_second("tx_frames"),
        per_second("tx_bits"),
        str(dropped),
        per_second("rx_dropped", "tx_dropped"),
    )


def _drops(name: str, port: dict[str, Any]) -> list[str]:
    sides = (("from", "rx_dropped"), ("towards", "tx_dropped"))
    return [
        f"dropped {side} {name}: {reason} {count}"
        for side, key in sides
        for reason, count in port[key].items()
        if count
    ]


def _learning(name: str, counts: dict[str, Any] | None) -> list[str]:
    """A line about the addresses of a port, and about what was not learned from it."""
    if not counts:
        return []
    refused = ", ".join(f"{reason} {count}" for reason, count in counts["refused"].items() if count)
    told = ", ".join(f"{key} {counts[key]}" for key in ("addresses", "learned", "moved", "evicted"))
    return [f"learned from {name}: {told}{'; not learned: ' if refused else ''}{refused}"]


def _worker(name: str, worker: dict[str, Any], rate: dict[str, float] | None) -> str:
    where = f"core {worker['core']}"
    if worker["core"] is None:
        last = worker.get("last_core")
        where = "not pinned" if last is None else f"not pinned, last on core {last}"
    busy = ""
    if rate:
        busy = f", busy {rate['busy']:.0%}, {si(rate['busy_rounds'])} of {si(rate['rounds'])} rounds/s found frames"
    wires = " ".join(f"{ingress}>{egress or '(nothing)'}" for ingress, egress in worker["wires"])
    return f"{name}: {where}{busy}, {wires or 'no wires'}"
