"""Runs benchmarks and writes each figure as a line of bench/results/NAME.jsonl: median, spread, commit, machine.

usage: python -m bench.record [pytest arguments, such as bench/test_copy.py or -k forward]
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastvhost

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def machine() -> dict[str, object]:
    """The CPU, how many of them we may use, and the kernel."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release().partition("-")[0]}


def commit() -> str:
    """The commit that is measured, with "+" where files of the measured code have changes."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "fastvhost", "setup.py", "bench", ":!bench/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(name: str, figures: list[dict[str, object]]) -> Path:
    """Append figures, each with time, commit, build and machine. Returns the file."""
    around = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "build": fastvhost.build_info(),
        "machine": machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    with path.open("a") as lines:
        for figure in figures:
            lines.write(json.dumps(figure | around) + "\n")
    return path


def figure_of(benchmark: dict[str, Any]) -> dict[str, object]:
    """One entry of pytest-benchmark's JSON, as nanoseconds per unit."""
    stats, extra = benchmark["stats"], benchmark["extra_info"]
    scale = 1e9 / extra["units"]
    figure: dict[str, object] = {"bench": benchmark["name"].removeprefix("test_"), "unit": f"ns/{extra['unit']}"}
    figure |= {key: round(stats[key] * scale, 3) for key in ("median", "q1", "q3", "min")}
    return figure | {"rounds": stats["rounds"]}


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        asked = arguments if any(not a.startswith("-") for a in arguments) else [*arguments, "bench"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--benchmark-enable", f"--benchmark-json={report}", *asked], cwd=ROOT
        )
        if done.returncode:
            return done.returncode
        benchmarks = json.loads(report.read_text())["benchmarks"]
    by_file: dict[str, list[dict[str, object]]] = {}
    for benchmark in benchmarks:
        name = Path(benchmark["fullname"].partition("::")[0]).stem.removeprefix("test_")
        by_file.setdefault(name, []).append(figure_of(benchmark))
    for name, figures in by_file.items():
        path = write(name, figures)
        for f in figures:
            print(f"{f['bench']:40} {f['median']:>10} {f['unit']}  (quartiles {f['q1']}..{f['q3']})")
        print(f"-> {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
