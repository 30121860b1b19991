"""Writes the tables of docs/five-paths.md and its Japanese version, their drawings and plot, from bench/results.

usage: python -m bench.five_paths [--check]
Of each path all rounds of its newest commit in results/five-paths.jsonl count: medians, lowest and highest beside them.
--check writes nothing and leaves with 1 if something is out of date.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import charts, path_drawings
from bench.generated import bring_up_to_date
from bench.japanese import JAPANESE
from bench.record import RESULTS, ROOT

DOCS = ROOT / "docs"
PLOTS = DOCS / "plots"
PAGES = {"": DOCS / "five-paths.md", ".ja": DOCS / "five-paths.ja.md"}
"""The page in each language, by the suffix that files of that language have in their names."""
MARK = re.compile(r"(<!-- (?P<name>[a-z0-9-]+): made by bench/five_paths\.py -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PATHS = (1, 2, 3, 4, 5)
PLACES = ("outer guest", "this host")
DIRECTIONS = {"in": "guest → App1", "out": "App1 → guest", "bounce": "there and back"}
COLOURS = ("#3fa45b", "#2f81f7", "#d9822b")
"""One for each of DIRECTIONS, the same as in the drawings."""
PARTS = {"qemu_guest": "QEMU: vCPU", "qemu_rest": "QEMU: rest", "kernel_thread": "vhost-net thread",
         "app1": "App1", "fastvhost": "fastvhost"}  # fmt: skip
Row = dict[str, Any]

TITLES = {
    1: ("e1000 and pcap", "e1000 と pcap"),
    2: ("virtio-net and pcap", "virtio-net と pcap"),
    3: ("virtio-net, vhost-net and pcap", "virtio-net と vhost-net と pcap"),
    4: ("virtio-net, CUSE and fastvhost", "virtio-net と CUSE と fastvhost"),
    5: ("virtio-net, vhost-user and fastvhost", "virtio-net と vhost-user と fastvhost"),
}
RATIO = "{}: path 5 carries {:.1f} times the frames of path 2 from the guest to App1 ({} rounds, {:.1f} to {:.1f})"
BOTH_RATIOS = f"{RATIO}, path 4 {{:.1f}} times"


def recorded() -> list[Row]:
    """For each path and place, all rounds of the newest commit that was recorded."""
    path = RESULTS / "five-paths.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    newest = {(row["path"], row["where"]): row["commit"] for row in rows}
    return [row for row in rows if row["commit"] == newest[row["path"], row["where"]]]


def of(rows: list[Row], path: int, place: str) -> list[Row]:
    return [row for row in rows if (row["path"], row["where"]) == (path, place)]


def median(rows: list[Row], value: Callable[[Row], float]) -> float:
    return float(statistics.median(map(value, rows)))


def rate(direction: str) -> Callable[[Row], float]:
    return lambda row: float(row[direction]["frames_per_second"])


class Page:
    """The generated parts of one page, by their marks."""

    def __init__(self, language: str, rows: list[Row]) -> None:
        self.language, self.rows = language, rows

    def say(self, text: str) -> str:
        return JAPANESE.get(text, text) if self.language else text

    def drawing(self, path: int) -> str:
        return f"![{self.title(path)}](plots/path-{path}{self.language}.svg)\n"

    def title(self, path: int) -> str:
        return TITLES[path][bool(self.language)]

    def table(self) -> str:
        """A row per path, place and direction."""
        if not self.rows:
            return self.say("Not recorded yet.") + "\n"
        head = ["path", "where", "direction", "frames/s", "Gbit/s", *PARTS.values(), "round trip, median / 99 %"]
        lines = ["| " + " | ".join(map(self.say, head)) + " |", "|" + "---|" * 3 + "---:|" * (len(head) - 3)]
        for place in PLACES:
            for path in PATHS:
                if rows := of(self.rows, path, place):
                    lines += [self.line(path, place, direction, rows) for direction in DIRECTIONS]
        last = self.rows[-1]
        rounds = max(len(of(self.rows, path, place)) for path in PATHS for place in PLACES)
        machine = last["machine"]
        commits = ", ".join(dict.fromkeys(row["commit"] for row in self.rows))
        days = ", ".join(dict.fromkeys(row["date"][:10] for row in self.rows))
        about = (rounds, last["bytes"], commits, days, machine["cpu"], machine["cpus"])
        source = self.say("{} rounds, {} B frames, commit {}, {}, {}, {} CPUs").format(*about)
        return "\n".join(lines) + f"\n\n{source}\n"

    def line(self, path: int, place: str, direction: str, rows: list[Row]) -> str:
        rates = [rate(direction)(row) for row in rows]
        cells = [
            str(path),
            self.say(place),
            self.say(DIRECTIONS[direction]),
            f"{statistics.median(rates):,.0f} ({min(rates):,.0f}..{max(rates):,.0f})",
            f"{median(rows, lambda row: float(row[direction]['gbit_per_second'])):.3g}",
        ]
        for part in PARTS:
            cells.append(f"{cpu(rows, direction, part):.3g}")
        trips = [row["round_trip_us"] for row in rows]
        both = " / ".join(f"{statistics.median(trip[key] for trip in trips):,.0f} µs" for key in ("median", "p99"))
        return "| " + " | ".join([*cells, both if direction == "bounce" else ""]) + " |"

    def ratios(self) -> str:
        """The frames as a multiple of those of path 2, where both were measured."""
        sentences = []
        for place in PLACES:
            found = {path: [rate("in")(row) for row in of(self.rows, path, place)] for path in PATHS}
            pairs = [five / two for two, five in zip(found[2], found[5], strict=False)]
            if not pairs:
                continue
            values: list[object] = [self.say(place), statistics.median(pairs), len(pairs), min(pairs), max(pairs)]
            if found[4]:
                values.append(statistics.median(four / two for two, four in zip(found[2], found[4], strict=False)))
            sentence = self.say(BOTH_RATIOS if found[4] else RATIO).format(*values)
            sentences.append(f"- {sentence[0].upper()}{sentence[1:]}{'' if self.language else '.'}")
        return "\n".join(sentences or [self.say("Not recorded yet.")]) + "\n"

    def picture(self, path: int) -> str:
        figures = []
        for place in PLACES:
            if rows := of(self.rows, path, place):
                spent = {part: cpu(rows, "in", part) for part in PARTS}
                trip = median(rows, lambda row: float(row["round_trip_us"]["median"]))
                into, out = median(rows, rate("in")), median(rows, rate("out"))
                figures.append(path_drawings.Figure(self.say(place), into, out, trip, spent))
        return path_drawings.draw(path, self.title(path), figures, japanese=bool(self.language))

    def plot(self) -> str | None:
        """Every path and direction, at both places."""
        columns = [(path, place) for place in PLACES for path in PATHS if of(self.rows, path, place)]
        if not columns:
            return None
        where = {"outer guest": self.say("outer"), "this host": self.say("host")}
        labels = {at: f"{at[0]} {where[at[1]]}" for at in columns}
        found = {
            self.say(title): {label: {"median": median(of(self.rows, *at), rate(key))} for at, label in labels.items()}
            for key, title in DIRECTIONS.items()
        }
        title, unit = self.say("The five paths"), self.say("Frames per second, each direction; logarithmic")
        return charts.bars(title, unit, list(labels.values()), found, logarithmic=True, colours=COLOURS, upright=True)

    def made(self, name: str) -> str:
        if name.startswith("path-"):
            return self.drawing(int(name.removeprefix("path-")))
        if name == "plot":
            plot = f"![{self.say('The five paths')}](plots/five-paths{self.language}.svg)\n"
            return plot if self.rows else self.say("Not recorded yet.") + "\n"
        return {"table": self.table, "ratios": self.ratios}[name]()

    def text(self) -> str:
        """The page with every marked place filled anew."""
        return MARK.sub(lambda m: f"{m[1]}{self.made(m['name'])}{m[4]}", PAGES[self.language].read_text())


def cpu(rows: list[Row], direction: str, part: str) -> float:
    return median(rows, lambda row: float(row[direction]["cpu_seconds_per_million_frames"][part] or 0))


def wanted() -> dict[Path, str]:
    """Every file that this writes, with its content."""
    rows = recorded()
    files: dict[Path, str] = {}
    for language, path in PAGES.items():
        page = Page(language, rows)
        files[path] = page.text()
        for n in PATHS:
            files[PLOTS / f"path-{n}{language}.svg"] = page.picture(n)
        if plot := page.plot():
            files[PLOTS / f"five-paths{language}.svg"] = plot
    return files


if __name__ == "__main__":
    sys.exit(bring_up_to_date(wanted, sys.argv[1:]))
