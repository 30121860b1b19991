"""Writes the tables of docs/performance.md and the plots in docs/plots from bench/results: nothing is typed by hand.

usage: python -m bench.plot [--check]
Of each comparison the newest record counts. --check writes nothing and leaves with 1 if something is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import charts
from bench.generated import bring_up_to_date
from bench.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "plots"
MARK = re.compile(r"(<!-- (?P<name>[a-z-]+): made by bench/plot\.py -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
NOTHING = "Not recorded yet.\n"
Record = dict[str, Any]


def newest(*names: str, on_each_machine: bool = False) -> list[Record]:
    """The last record of each load, in the order of frame sizes."""
    found: dict[tuple[str, ...], Record] = {}
    for name in names:
        path = RESULTS / f"{name}.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            record = json.loads(line)
            machine = record["machine"]["cpu"] if on_each_machine else ""
            found[record.get("size", record["bench"]), record.get("guests", ""), machine] = record
    order = list(found.values())
    return sorted(order, key=lambda r: int(r["size"]) if str(r.get("size", "")).isdecimal() else 1 << 30)


def grid(rows: list[list[str]]) -> str:
    """A table in Markdown; all but the first column are numbers."""
    head, *body = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *body))


def spread(figures: dict[str, float]) -> str:
    """Median and quartiles."""
    return f"{figures['median']:.2f} ({figures['q1']:.2f}..{figures['q3']:.2f})"


def compared(records: list[Record], *, shape: bool = False) -> str:
    """Rates or latencies of one set-up: a row per load, ratios behind the figures."""
    if not records:
        return NOTHING
    figures = list(dict.fromkeys(name for r in records for name in r["figures"]))
    ratios = list(dict.fromkeys(name for r in records for name in r["ratios"]))
    head = ["load" if shape else "bytes", *figures, *ratios]
    rows = [
        [
            load(r) if shape else r["size"],
            *(spread(r["figures"][name]) if name in r["figures"] else "" for name in figures),
            *(spread(r["ratios"][name]) if name in r["ratios"] else "" for name in ratios),
        ]
        for r in records
    ]
    return f"{grid([head, *rows])}\n{records[0]['unit']}; {source(records)}\n"


def machines() -> str:
    """The ratios of split rings, on whatever machine they were recorded."""
    records = newest("rates", on_each_machine=True)
    if not records:
        return NOTHING
    ratios = list(dict.fromkeys(name for r in records for name in r["ratios"]))
    rows = [["bytes, machine", "a line crosses, ns", *ratios, "commit"]]
    for r in records:
        crossing = spread(r["crossing_ns"]) if "crossing_ns" in r else ""
        found = (spread(r["ratios"][name]) if name in r["ratios"] else "" for name in ratios)
        rows.append([f"{r['size']}, {r['machine']['cpu']}", crossing, *found, r["commit"]])
    return grid(rows)


def load(record: Record) -> str:
    """The frames' size and the options of the guests."""
    words = record["guests"].replace("virtio-user ", "").replace("--", "").replace(",", ", ").strip()
    size = record["size"] if record["size"] == "imix" else f"{record['size']} B"
    return f"{size}, {words}" if words else size


def source(records: list[Record]) -> str:
    """Where and when."""
    def several(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    crossings = [r["crossing_ns"] for r in records if "crossing_ns" in r]
    crossing = (
        f", a cache line crossed between the CPUs in {min(c['q1'] for c in crossings):.0f}.."
        f"{max(c['q3'] for c in crossings):.0f} ns"
        if crossings else ""
    )
    starts = max(r.get("starts", 1) for r in records)
    rounds = several([str(r.get("rounds", "")) for r in records if "rounds" in r] or ["1"])
    in_starts = f" in each of {starts} starts" if starts > 1 else ""
    return (
        f"{rounds} rounds{in_starts}, "
        f"commit {several([r['commit'] for r in records])}, {several([r['date'][:10] for r in records])}, "
        f"{several([r['machine']['cpu'] for r in records])}, {records[0]['machine']['cpus']} CPUs, "
        f"kernel {several([r['machine']['kernel'] for r in records])}, "
        f"{several([r['build']['compiler'] for r in records])} `{several([_flags(r) for r in records])}`{crossing}"
    )


def _flags(record: Record) -> str:
    return " ".join(word for word in record["build"]["flags"].split() if not word.startswith("-W"))


def percentiles(records: list[Record]) -> str:
    """One frame in flight."""
    rows = [["bytes, back-end", "50 %", "99 %", "99.9 %"]]
    for r in records:
        for name, p in r.get("percentiles", {}).items():
            rows.append([f"{r['size']}, {name}", *(f"{p[key]:.2f}" for key in ("p50", "p99", "p999"))])
    return grid(rows) if len(rows) > 1 else NOTHING


def simple(records: list[Record]) -> str:
    """Figures without a peer."""
    if not records:
        return NOTHING
    rows = [["", "figure"], *([r["bench"], f"{r['median']:g} {r['unit']}"] for r in records)]
    return f"{grid(rows)}\n{source(records)}\n"


def simple_ratios(records: list[Record]) -> str:
    """Ratios of turns, with both rates and both longest rounds."""
    if not records:
        return NOTHING
    rows = [["", "ratio", "Mpps", "longest round, us"]]
    rows += [[r["bench"], spread(r), _both(r["mpps"]), _both(r.get("longest_us", ()))] for r in records]
    return f"{grid(rows)}\n{source(records)}\n"


def _both(figures: Sequence[float]) -> str:
    return " / ".join(map(str, figures))


def loss(records: list[Record]) -> str:
    if not records:
        return NOTHING
    keys = ("frames", "lost", "corrupt", "reordered", "duplicated")
    rows = [["", "seconds", *keys], *([r["bench"], f"{r['seconds']:g}", *(f"{r[k]:,}" for k in keys)] for r in records)]
    return f"{grid(rows)}\n{source(records)}\n"


HOST_WAYS = ("packet", "xdp", "tap", "bridge", "pcap")


def host_ports() -> str:
    """Ports towards this host: frames that arrived, and frames that the core forwarded, twice as many."""
    records = [(way, record) for way in HOST_WAYS for record in newest(way)]
    if not records:
        return NOTHING
    rows = [["way, bytes", "arrived, fastvhost", "forwarded by its core", "arrived, testpmd", "ratio", "lost"]]
    for way, r in records:
        ours, peer = f"fastvhost-{way}", f"testpmd-{way}"
        figures = r["figures"]
        rows.append([
            f"{way}, {r['size']}", spread(figures[ours]), f"{2 * figures[ours]['median']:.2f}", spread(figures[peer]),
            spread(r["ratios"][f"{ours}/{peer}"]), f"{r['faults'][ours]['lost_percent']:g} %",
        ])  # fmt: skip
    return f"{grid(rows)}\nMpps, both directions; {source([record for _, record in records])}\n"


def with_picture(name: str, what: str, table: str) -> str:
    """A plot above its table, where there is something to plot."""
    return f"![{what}](plots/{name})\n\n{table}" if PICTURES[name]() else table


TABLES: dict[str, Callable[[], str]] = {
    "rates": lambda: with_picture(
        "rates.svg", "rate by frame size",
        with_picture("ratios.svg", "paired ratios by frame size", compared(newest("rates", "rates-between"))),
    ),
    "machines": machines,
    "packed": lambda: compared(newest("packed"), shape=True),
    "packed-split": lambda: compared(newest("packed-split")),
    "packed-split-dpdk": lambda: compared(newest("packed-split-dpdk"), shape=True),
    "shapes": lambda: compared(newest("shapes"), shape=True),
    "switch": lambda: with_picture("switch.svg", "rates as a switch", compared(newest("switch"), shape=True)),
    "switch-latency": lambda: compared(newest("switch-latency")),
    "switching": lambda: simple_ratios(newest("switching")),
    "virtio-user": lambda: compared(newest("virtio-user"), shape=True),
    "latency": lambda: compared(newest("latency")),
    "percentiles": lambda: with_picture("latency.svg", "percentiles of latency", percentiles(newest("latency"))),
    "idle": lambda: compared(newest("idle")),
    "wake": lambda: compared(newest("wake")),
    "host-ports": host_ports,
    "load": lambda: compared(newest("load")),
    "memory": lambda: simple(newest("memory")),
    "loss": lambda: loss(newest("loss")),
    "instructions": lambda: simple(newest("instructions")),
}


def page(text: str) -> str:
    """The page with every marked place filled anew."""
    return MARK.sub(lambda m: f"{m[1]}{TABLES[m['name']]()}{m[4]}", text)


def rate_plot() -> str | None:
    """Rates by frame size."""
    records = by_size("rates", "rates-between")
    if not records:
        return None
    title = "Forwarding rate by frame size, split rings"
    return charts.lines(title, records[0]["unit"], columns(records), series(records, "figures"))


def ratio_plot() -> str | None:
    """Paired ratios by frame size, which do not depend on the machine's drift between sizes."""
    records = by_size("rates", "rates-between")
    title = "Rates side by side, split rings"
    found = series(records, "ratios")
    if not found:
        return None
    # Each peer in the colour that it has in the plot of rates.
    return charts.bars(title, "paired ratios, medians", columns(records), found, colours=charts.COLOURS[1:])


def latency_plot() -> str | None:
    """Percentiles of one frame in flight, of the smallest size."""
    record = next((r for r in newest("latency") if "percentiles" in r), None)
    if not record:
        return None
    keys = {"p50": "median", "p99": "99 %", "p999": "99.9 %"}
    found = {
        name: {column: {"median": percentiles[key]} for key, column in keys.items()}
        for name, percentiles in record["percentiles"].items()
    }
    title = f"One frame of {record['size']} bytes in flight, one way"
    return charts.bars(title, "microseconds, logarithmic", list(keys.values()), found, logarithmic=True)


SWITCH_LOADS = {"": "2 guests", "--pattern mesh": "mesh of 4", "--pattern hub": "hub and 3",
                "--pattern pair": "2 of 32", "--pattern flood": "flood to 3"}  # fmt: skip


def switch_plot() -> str | None:
    """Rates of small frames as a switch."""
    records = [r for r in newest("switch") if r["size"] == "64" and r["guests"] in SWITCH_LOADS]
    if not records:
        return None
    found = {
        name: {SWITCH_LOADS[r["guests"]]: r["figures"][name] for r in records if name in r["figures"]}
        for name in dict.fromkeys(name for r in records for name in r["figures"])
    }
    columns = [label for guests, label in SWITCH_LOADS.items() if guests in {r["guests"] for r in records}]
    return charts.bars("As a switch, 64 bytes", records[0]["unit"], columns, found)


def by_size(*names: str) -> list[Record]:
    """The newest record of each size in bytes, without mixtures of sizes."""
    return [r for r in newest(*names) if r["size"].isdecimal()]


def columns(records: list[Record]) -> list[str]:
    return [f"{r['size']} B" for r in records]


def series(records: list[Record], key: str) -> dict[str, dict[str, charts.Summary]]:
    """By name and column what records of several sizes have under `key`."""
    names = dict.fromkeys(name for r in records for name in r[key])
    return {name: {f"{r['size']} B": r[key][name] for r in records if name in r[key]} for name in names}


PICTURES: dict[str, Callable[[], str | None]] = {
    "rates.svg": rate_plot,
    "ratios.svg": ratio_plot,
    "latency.svg": latency_plot,
    "switch.svg": switch_plot,
}


def wanted() -> dict[Path, str]:
    """Every file that this writes, with its content."""
    files = {PAGE: page(PAGE.read_text())}
    for name, draw in PICTURES.items():
        if picture := draw():
            files[PLOTS / name] = picture
    return files


if __name__ == "__main__":
    sys.exit(bring_up_to_date(wanted, sys.argv[1:]))
