"""Rates of fastvhost beside DPDK testpmd and OVS-DPDK, under the same load, in turns.

Every back-end joins two sockets on one core; two built-in guests on another core flood it both ways. All of them stay
up, all but one are stopped, and they take turns of less than a second: see bench/turns.py for why.

`--setup NAME` runs one of the comparisons that the documents speak of, and records it under its name:
{setups}

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.backends import KINDS as GUEST_KINDS
from bench.backends import VGEN_WORD, BackEnd, BackEndError, kind_of
from bench.cache_line import CacheLine
from bench.host_ports import HOST_KINDS
from bench.record import write
from bench.setups import SETUPS, Case, Setup, cases
from bench.turns import Pair, VgenPair, paired_ratios, summary
from bench.virtio_user import VirtioUserPair

KINDS = {**GUEST_KINDS, **HOST_KINDS}
HUGEPAGES = 640  # of 2 MiB: 256 MiB for each peer, and the guests' memory
PERCENTILES = ("p50", "p99", "p999")
BROKEN = ("corrupt", "reordered", "duplicated")
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")


def arguments() -> argparse.Namespace:
    setups = "\n".join(f"  {name:14} {setup.question}" for name, setup in SETUPS.items())
    first, _, rest = (__doc__ or "").replace("{setups}", setups).partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="scripts/compare", description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--setup", choices=SETUPS, metavar="NAME", help="one of those below; other options here still overrule it")
    add(
        "--backends",
        metavar="LIST",
        help="the first is compared with each other one; fastvhost:DIR is another tree, fastvhost@packed+in-order has "
        "guests of its own kind, fastvhost@adaptive runs with --idle adaptive; default fastvhost,testpmd,ovs",
    )
    add("--sizes", metavar="LIST", help="bytes, or imix; default 64,512,1518")
    add("--rounds", type=int, default=12, help="turns of each back-end; default %(default)s")
    add("--turn", type=float, default=0.6, metavar="SECONDS", help="default %(default)s")
    add("--starts", type=int, metavar="N", help="start all of them anew N times: their memory then lies elsewhere")
    add("--latency", action="store_true", help="one frame in flight, microseconds, instead of rates")
    add("--guests", metavar="ARGUMENTS", help="more for bench.guest_load, such as --guests=--one-way")
    add("--json", action="store_true", help="one object per size on stdout instead of the table")
    add("--no-record", action="store_true", help="write no line to bench/results")
    return parser.parse_args()


def setup_of(o: argparse.Namespace) -> Setup:
    """The named set-up or the default one, changed by the other options."""
    named = SETUPS.get(o.setup, Setup("", "fastvhost,testpmd,ovs", cases((64, 512, 1518))))
    changed = {"guests": o.guests, "backends": "" if o.backends else None}
    changed = {key: value for key, value in changed.items() if value is not None}
    loads = [
        replace(case, size=size, **changed)
        for case in named.cases
        for size in (o.sizes.split(",") if o.sizes is not None else [case.size])
    ]
    loads = tuple(dict.fromkeys(loads))
    return replace(named, backends=o.backends or named.backends, cases=loads, latency=o.latency or named.latency)


@contextlib.contextmanager
def hugepages(wanted: bool) -> Iterator[Path | None]:
    """Mount a hugetlbfs with pages reserved for it, within the block."""
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
                # Lazily: where this program is ended meanwhile, a peer may still be on its way out.
                subprocess.run(["umount", "--lazy", directory], check=True)
        finally:
            # Pages that others reserved or released meanwhile stay as they are.
            NR_HUGEPAGES.write_text(str(max(0, int(NR_HUGEPAGES.read_text()) - HUGEPAGES)))


@dataclass
class Turns:
    """What was seen of each back-end: a figure for each of its turns, its windows, its faults."""

    figures: dict[str, list[float | None]]
    windows: dict[str, list[dict[str, float]]]
    faults: dict[str, dict[str, float]] = field(default_factory=dict)
    crossings: list[float | None] = field(default_factory=list)


def compare(o: argparse.Namespace, setup: Setup, case: Case, huge: Path | None, work: Path) -> dict[str, Any]:
    """All back-ends under one load. Per back-end its turns, its rates, its losses; and the ratios."""
    names = (case.backends or setup.backends).split(",")
    seen = Turns({name: [] for name in names}, {name: [] for name in names})
    starts = o.starts or setup.starts
    for _ in range(starts):
        take_turns(seen, o, setup, case, huge, work)
    return {
        "bench": "latency" if setup.latency else "rate",
        "size": case.size,
        "unit": unit_of(setup),
        "guests": ("virtio-user " if setup.virtio_user else "") + case.guests,
        "rounds": o.rounds,
        "starts": starts,
        **({"crossing_ns": rounded(summary(crossed))} if (crossed := [ns for ns in seen.crossings if ns]) else {}),
        "figures": {name: rounded(summary([t for t in seen.figures[name] if t])) for name in names},
        "ratios": {f"{a}/{b}": rounded(paired_ratios(seen.figures[a], seen.figures[b])) for a, b in compared(names)},
        "faults": seen.faults,
        **({"percentiles": {name: percentiles(seen.windows[name]) for name in names}} if setup.latency else {}),
    }


def take_turns(
    seen: Turns, o: argparse.Namespace, setup: Setup, case: Case, huge: Path | None, work: Path
) -> None:
    """Start all back-ends, let them take their turns, and end them."""
    pairs: list[Pair | VirtioUserPair] = []
    with contextlib.ExitStack() as closing:
        for name in seen.figures:
            pair = start(setup, case, name, huge, Path(tempfile.mkdtemp(dir=work)) / name[:2], closing)
            pair.await_traffic()
            pair.freeze()
            pairs.append(pair)
        line = CacheLine(work, *cpus())
        for _ in range(o.rounds):
            seen.crossings.append(line.crossing_ns())
            for pair in pairs:
                turn = pair.turn(o.turn)
                seen.windows[pair.back_end.name] += turn
                seen.figures[pair.back_end.name].append(figure(turn, setup))
        for pair in pairs:
            pair.finish()
            pair.freeze()  # its back-end would go on polling
            if not any(seen.figures[pair.back_end.name][-o.rounds :]):
                raise BackEndError(f"{pair.back_end.name}: no traffic in any turn; {pair.back_end.end_of_log()}")
    for pair in pairs:
        name = pair.back_end.name
        seen.faults[name] = summed(seen.faults.get(name, {}), faults(pair))


def cpus() -> tuple[int, int]:
    """The CPUs of the back-end and of the guests: the first and the last allowed one."""
    return min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))


def percentiles(windows: list[dict[str, float]]) -> dict[str, float]:
    """The median over all windows of each percentile within a window (50 ms, some thousand frames)."""
    return rounded({key: summary([w[key] for w in windows])["median"] for key in PERCENTILES})


def compared(names: list[str]) -> list[tuple[str, str]]:
    """The pairs to compare: the first back-end with every other one, and each with its own variants."""
    pairs = [(names[0], name) for name in names[1:]]
    return pairs + [(a, b) for a in names[1:] for b in names[1:] if b.partition("@")[0] == a != b]


def start(
    setup: Setup, case: Case, name: str, huge: Path | None, directory: Path, closing: contextlib.ExitStack
) -> Pair | VirtioUserPair:
    """A back-end on one CPU and its guests on the other."""
    back_core, guest_core = cpus()
    more = {"ports": case.ports} if case.ports > 2 else {}
    back_end: BackEnd = KINDS[kind_of(name)](name, directory, back_core, huge, **more)
    closing.callback(back_end.stop)
    back_end.start()
    pair: Pair | VirtioUserPair
    if setup.virtio_user:
        pair = VirtioUserPair(back_end, case.size, case.guests, guest_core)
    else:
        load = ["--size", case.size, "--core", str(guest_core), *case.guests.split(), *back_end.guest_options]
        kind = VgenPair if VGEN_WORD in back_end.words else Pair
        pair = kind(back_end, [*load, *(["--latency"] if setup.latency else [])])
    closing.callback(pair.finish)
    return pair


def unit_of(setup: Setup) -> str:
    """Of what figure() returns."""
    if setup.latency:
        return "us one way, median"
    return "Gbit/s received, both directions" if setup.gbit else "Mpps received, both directions"


def figure(windows: list[dict[str, float]], setup: Setup) -> float | None:
    """A turn's median one-way latency, or its rate in Mpps or Gbit/s. None if no window lies in it."""
    if not windows:
        return None
    if setup.latency:
        return summary([w["p50"] for w in windows])["median"]
    counted = sum(8 * w["bytes"] / 1000 if setup.gbit else w["frames"] for w in windows)
    return counted / sum(w["d"] for w in windows) / 1e6


def faults(pair: Pair | VirtioUserPair) -> dict[str, float]:
    """Faults of the frames over the whole run. A back-end that drops where a ring is full loses frames."""
    if isinstance(pair, VirtioUserPair | VgenPair) or not pair.final:
        return {}  # not checked
    ways = [pair.final.get(way, {}) for way in ("a_to_b", "b_to_a")]
    return {key: sum(way.get(key, 0) for way in ways) for key in (*BROKEN, "lost", "sent_frames")}


def summed(faults: dict[str, float], more: dict[str, float]) -> dict[str, float]:
    """The faults of several starts, and the share that was lost of all that was sent."""
    if not more:
        return faults
    total = {key: faults.get(key, 0) + more[key] for key in more}
    sent = total["sent_frames"]
    return {**total, "lost_percent": round(100 * total["lost"] / sent, 3) if sent else 0.0}


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in figures.items()}


def table(result: dict[str, Any]) -> str:
    """A block of lines per size."""
    lines = [f"{result['size']} bytes {result['guests']}".rstrip() + f", {result['unit']}"]
    if crossing := result.get("crossing_ns"):
        lines[0] += f"; a cache line crosses in {crossing['median']:.0f} ns"
        lines[0] += f" ({crossing['q1']:.0f}..{crossing['q3']:.0f})"
    for name, f in result["figures"].items():
        lines.append(f"  {name:24}{f['median']:8.2f}  ({f['q1']:.2f}..{f['q3']:.2f}){told(result['faults'][name])}")
    for name, p in result.get("percentiles", {}).items():
        lines.append(f"  {name:24}{p['p50']:8.2f}  {p['p99']:.2f} (99 %)  {p['p999']:.2f} (99.9 %)   median of windows")
    for name, r in result["ratios"].items():
        lines.append(f"  {name:24}{r['median']:8.2f}  ({r['q1']:.2f}..{r['q3']:.2f})   paired ratio")
    return "\n".join(lines)


def told(wrong: dict[str, float]) -> str:
    """The faults of a back-end, where they were checked."""
    if not wrong:
        return ""
    kinds = ", ".join(f"{wrong[key]:.0f} {key}" for key in BROKEN if wrong[key])
    return f"   {kinds or 'all intact'}, {wrong['lost_percent']:.1f} % lost"


def main() -> int:
    o = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    setup = setup_of(o)
    kinds = [kind_of(name) for name in setup.backends.split(",")]
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        print(f"compare: no back-end {unknown[0]}; there are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    if len(os.sched_getaffinity(0)) < 2:
        print("compare: one CPU is too few; a back-end and its guests need one each", file=sys.stderr)
        return 1
    results = []
    try:
        peers = any(KINDS[kind].needs_hugepages for kind in kinds)
        with hugepages(peers) as huge, tempfile.TemporaryDirectory(prefix="fv-cmp-") as work:
            for case in setup.cases:
                result = compare(o, setup, case, huge, Path(work))
                results.append(result)
                print(json.dumps(result) if o.json else table(result), flush=True)
    except BackEndError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not o.no_record:
        write(o.setup or "compare", results)
    return 1 if any(f.get(key) for r in results for f in r["faults"].values() for key in BROKEN) else 0


if __name__ == "__main__":
    sys.exit(main())
