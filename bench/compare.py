"""Rates of fastvhost beside DPDK testpmd and OVS-DPDK, under the same load, in turns.

Every back-end joins two sockets on one core; two built-in guests on another core flood it both ways. All of them stay
up, all but one are stopped, and they take turns of less than a second: see bench/turns.py for why.

Peers need the Debian packages dpdk and openvswitch-switch-dpdk, and root for their hugepages, which are given back.
Run by scripts/compare, which sets things up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.backends import KINDS, BackEnd, BackEndError
from bench.record import write
from bench.turns import Pair, paired_ratios, summary

HUGEPAGES = 640    # of 2 MiB: 256 MiB for each peer, and the guests' memory
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")


def arguments() -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="scripts/compare", description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backends", default="fastvhost,testpmd,ovs", metavar="LIST",
        help="the first is compared with each other one; fastvhost:DIR is another tree; default %(default)s")
    add("--sizes", default="64,512,1518", metavar="LIST", help="bytes, or imix; default %(default)s")
    add("--rounds", type=int, default=12, help="turns of each back-end; default %(default)s")
    add("--turn", type=float, default=0.6, metavar="SECONDS", help="default %(default)s")
    add("--latency", action="store_true", help="one frame in flight, microseconds, instead of rates")
    add("--guests", default="", metavar="ARGUMENTS", help="more for bench.guest_load, such as --guests=--one-way")
    add("--json", action="store_true", help="one object per size on stdout instead of the table")
    add("--no-record", action="store_true", help="write no line to bench/results/compare.jsonl")
    return parser.parse_args()


@contextlib.contextmanager
def hugepages(wanted: bool) -> Iterator[Path | None]:
    """A hugetlbfs of our own with pages behind it, for as long as it takes."""
    if not wanted:
        yield None
        return
    if os.geteuid():
        raise BackEndError("the peers need hugepages; run this as root, or with --backends fastvhost")
    before = int(NR_HUGEPAGES.read_text())
    with tempfile.TemporaryDirectory(prefix="fv-huge-") as directory:
        try:
            NR_HUGEPAGES.write_text(str(before + HUGEPAGES))
            if int(NR_HUGEPAGES.read_text()) < before + HUGEPAGES:
                raise BackEndError(f"{HUGEPAGES} hugepages are not to be had; free memory, or use fewer back-ends")
            subprocess.run(["mount", "-t", "hugetlbfs", "none", directory], check=True)
            try:
                yield Path(directory)
            finally:
                subprocess.run(["umount", directory], check=True)
        finally:
            # What others added or took meanwhile stays as it is.
            NR_HUGEPAGES.write_text(str(max(0, int(NR_HUGEPAGES.read_text()) - HUGEPAGES)))


def compare(o: argparse.Namespace, size: str, huge: Path | None, work: Path) -> dict[str, Any]:
    """All back-ends under one load. Per back-end its turns, its rates, its losses; and the ratios."""
    back_core, guest_core = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    load = ["--size", size, "--core", str(guest_core), *(["--latency"] if o.latency else []), *o.guests.split()]
    pairs: list[Pair] = []
    with contextlib.ExitStack() as closing:
        for n, name in enumerate(o.backends.split(",")):
            back_end: BackEnd = KINDS[name.partition(":")[0]](name, work / f"{size}-{n}", back_core, huge)
            closing.callback(back_end.stop)
            back_end.start()
            pair = Pair(back_end, load)
            closing.callback(pair.finish)
            pair.await_traffic()
            pair.freeze()
            pairs.append(pair)
        turns: dict[str, list[float | None]] = {p.back_end.name: [] for p in pairs}
        for _ in range(o.rounds):
            for pair in pairs:
                turns[pair.back_end.name].append(figure(pair.turn(o.turn), o.latency))
        for pair in pairs:
            pair.finish()
            pair.freeze()    # its back-end has nothing to do, and polls
            if not any(turns[pair.back_end.name]):
                raise BackEndError(f"{pair.back_end.name}: no traffic in any turn; {pair.back_end.last_words()}")
    names = list(turns)
    return {
        "bench": "latency" if o.latency else "rate",
        "size": size,
        "unit": "us one way, median" if o.latency else "Mpps received, both directions",
        "guests": o.guests,
        "rounds": o.rounds,
        "figures": {name: rounded(summary([t for t in turns[name] if t])) for name in names},
        "ratios": {f"{names[0]}/{n}": rounded(paired_ratios(turns[names[0]], turns[n])) for n in names[1:]},
        "faults": {pair.back_end.name: faults(pair) for pair in pairs},
    }


def figure(windows: list[dict[str, float]], latency: bool) -> float | None:
    """A turn's median one-way latency, or its rate in Mpps. None if no window lies in it."""
    if not windows:
        return None
    if latency:
        return summary([w["p50"] for w in windows])["median"]
    return sum(w["frames"] for w in windows) / sum(w["d"] for w in windows) / 1e6


def faults(pair: Pair) -> dict[str, float]:
    """What was wrong with the frames over the whole run. Lost ones are the full ring of a back-end that drops."""
    ways = [pair.final.get(way, {}) for way in ("a_to_b", "b_to_a")]
    total = {key: sum(way.get(key, 0) for way in ways) for key in ("corrupt", "reordered", "duplicated", "lost")}
    sent = sum(way.get("sent_frames", 0) for way in ways)
    return {**total, "lost_percent": round(100 * total["lost"] / sent, 3) if sent else 0.0}


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in figures.items()}


def table(result: dict[str, Any]) -> str:
    """A block of lines per size."""
    lines = [f"{result['size']} bytes, {result['unit']}"]
    for name, f in result["figures"].items():
        wrong = result["faults"][name]
        kinds = ", ".join(f"{wrong[key]} {key}" for key in ("corrupt", "reordered", "duplicated") if wrong[key])
        lost = f"{wrong['lost_percent']:.1f} % lost"
        lines.append(f"  {name:24}{f['median']:8.2f}  ({f['q1']:.2f}..{f['q3']:.2f})   {kinds or 'all intact'}, {lost}")
    for name, r in result["ratios"].items():
        lines.append(f"  {name:24}{r['median']:8.2f}  ({r['q1']:.2f}..{r['q3']:.2f})   paired ratio")
    return "\n".join(lines)


def main() -> int:
    o = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    unknown = [name for name in o.backends.split(",") if name.partition(":")[0] not in KINDS]
    if unknown:
        print(f"compare: no back-end {unknown[0]}; there are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    if len(os.sched_getaffinity(0)) < 2:
        print("compare: one CPU is too few; a back-end and its guests need one each", file=sys.stderr)
        return 1
    peers = any(KINDS[name.partition(":")[0]].needs_hugepages for name in o.backends.split(","))
    results = []
    try:
        with hugepages(peers) as huge, tempfile.TemporaryDirectory(prefix="fv-cmp-") as work:
            for size in o.sizes.split(","):
                result = compare(o, size, huge, Path(work))
                results.append(result)
                print(json.dumps(result) if o.json else table(result), flush=True)
    except BackEndError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not o.no_record:
        write("compare", results)
    wrong = [f for r in results for f in r["faults"].values() if f["corrupt"] or f["reordered"] or f["duplicated"]]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
