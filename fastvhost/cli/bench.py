"""Rates and latency of this machine: a real fwd as a process of its own, two built-in guests at its sockets.

Beside each rate stands the copy limit: the rate of the same guests on the same CPUs through a bare loop that copies
each frame once and checks nothing. fwd may be faster, since it copies better. On a virtual machine single figures vary
a lot from minute to minute. Needs no VM, no root and no hugepages (and uses hugepages where there are some).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvhost.cli.output import say
from fastvhost.cli.own_fwd import cores, forwarder, temporary_directory
from fastvhost.cli.text import table
from fastvhost.control import units
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.stats import BITS

if TYPE_CHECKING:
    from fastvhost.driver.guests import GuestCounters

SIZES = (60, 65000)
USUAL_SIZES = "64,256,512,1024,1518,9000,imix"
ASKING_SIZES = "1518,16384,32768,65000"
RINGS = ("split", "packed")
WAYS = {1: "one way", 2: "both ways"}
SETTLE_SECONDS = 0.1
LATENCY_SIZE = 64
Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which loads, and for how long."""
    add = parser.add_argument
    add("--seconds", default="300ms", metavar="TIME", help="of each measurement; default 300ms: half a minute in all")
    add("--sizes", metavar="LIST",
        help=f"bytes of frames, or imix; default {USUAL_SIZES}, with --asks {ASKING_SIZES}")  # fmt: skip
    add("--rings", default=",".join(RINGS), metavar="LIST", help="split, packed, or both; default both")
    add("--content", choices=("numbers", "whole", "none"), default="numbers",
        help="what the guests check: the number, length and check word of each frame; every byte; nothing")  # fmt: skip
    add("--asks", choices=("nothing", "checksum", "segments"), default="nothing",
        help="what the guests leave to their cards, which fwd passes on; frames are of TCP then")  # fmt: skip
    add("--no-latency", action="store_true", help="rates only")
    add("--json", action="store_true", help="one object per measurement and line instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """0 when every frame of every measurement arrived as it was sent."""
    from fastvhost.driver.guests import LEAST_BYTES, GuestsError

    seconds = units.duration("seconds", arguments.seconds, 0.02, 3600)
    asks = arguments.asks
    sizes = _sizes(arguments.sizes or (USUAL_SIZES if asks == "nothing" else ASKING_SIZES))
    if asks != "nothing" and (short := [size for size in sizes if size == "imix" or int(size) < LEAST_BYTES]):
        raise UsageError(f"--sizes {short[0]}: with --asks {asks} give {LEAST_BYTES} bytes or more, and no mixture")
    rings = arguments.rings.split(",")
    if wrong := [ring for ring in rings if ring not in RINGS]:
        raise UsageError(f"--rings {arguments.rings}: {wrong[0] or 'nothing'} is no ring; give split, packed or both")
    bench = _Bench(seconds, arguments.content, asks)
    records: list[Record] = []
    try:
        with temporary_directory("fastvhost-bench-") as directory:
            bench.directory = directory
            with forwarder(bench.directory, bench.fwd_core, bench.directory / "log"):
                for kind, part in _parts(bench, sizes, rings, not arguments.no_latency):
                    done = list(_spoken(part, arguments.json))
                    records += done
                    if not arguments.json and not say(kind(done)):
                        return 0
    except GuestsError as error:
        raise RuntimeFailure(str(error)) from error
    if faulty := [record for record in records if any(record.get(fault) for fault in FAULTS)]:
        raise RuntimeFailure(f"{len(faulty)} measurements had frames lost or spoilt; --json tells which")
    return 0


FAULTS = ("lost", "corrupt", "reordered", "duplicated")
Table = Callable[[Sequence[Record]], str]


def _parts(
    bench: _Bench, sizes: Sequence[str], rings: Sequence[str], latency: bool
) -> Iterator[tuple[Table, Iterator[Record]]]:
    """The measurements, and the function that formats each group of them."""
    for ways in WAYS:
        yield _rate_table, bench.rates(sizes, rings, ways)
    if latency:
        yield _latency_table, bench.latencies(rings)


def _spoken(records: Iterator[Record], as_json: bool) -> Iterator[Record]:
    for record in records:
        if as_json:
            say(json.dumps(record))
        yield record


def _sizes(text: str) -> list[str]:
    sizes = text.split(",")
    for size in sizes:
        if size != "imix" and not (size.isdecimal() and SIZES[0] <= int(size) <= SIZES[1]):
            raise UsageError(f"--sizes {text}: {size or 'nothing'} is no size; give {SIZES[0]} to {SIZES[1]}, or imix")
    return sizes


def _frame_bytes(size: str) -> tuple[int, ...]:
    """Of the frames of one of --sizes, in turn."""
    from fastvhost.driver.guests import IMIX

    return IMIX if size == "imix" else (int(size),)


class _Bench:
    """One fwd, and guests that come and go."""

    def __init__(self, seconds: float, content: str, asks: str) -> None:
        self.seconds, self.content, self.asks = seconds, content, asks
        self.fwd_core, self.guests_core = cores()
        self.directory = Path()

    def rates(self, sizes: Sequence[str], rings: Sequence[str], ways: int) -> Iterator[Record]:
        """Measure frames and bits per second, and the copy limit."""
        from fastvhost.driver.limit import copy_limit

        for size in sizes:
            limit = copy_limit(
                _frame_bytes(size), self.seconds, both_ways=ways == 2, copy_core=self.fwd_core,
                guests_core=self.guests_core,
            )  # fmt: skip
            for ring in rings:
                rate, bits, final = self._flood(size, ring, ways)
                yield {
                    "bench": "rate", "size": size, "ring": ring, "ways": ways, "asks": self.asks,
                    "frames_per_second": round(rate), "bits_per_second": round(bits),
                    "limit_frames_per_second": round(limit), "frames": final.frames,
                    **{fault: getattr(final, fault) for fault in FAULTS},
                }  # fmt: skip

    def _flood(self, size: str, ring: str, ways: int) -> tuple[float, float, GuestCounters]:
        with self._guests(size, ring, ways, self.asks) as guests:
            time.sleep(SETTLE_SECONDS)
            start, before = time.monotonic(), guests.counters()
            time.sleep(self.seconds)
            took, now = time.monotonic() - start, guests.counters()
            final = guests.stop_load()
        return (now.frames - before.frames) / took, (now.bytes - before.bytes) * BITS / took, final

    def latencies(self, rings: Sequence[str]) -> Iterator[Record]:
        """Measure latency with one frame in flight, at half of the rate of a flood, and in a flood."""
        for ring in rings:
            guests = self._guests(str(LATENCY_SIZE), ring, 2, "nothing")
            try:
                yield self._latency(ring, "one frame in flight", guests.latency(self.seconds), None)
                flooded, rate = guests.latency_under_load(self.seconds)
                half, half_rate = guests.latency_under_load(self.seconds, rate / 4)    # per way
                yield self._latency(ring, "half the rate", half, half_rate)
                yield self._latency(ring, "flood", flooded, rate)
            finally:
                guests.stop()

    @staticmethod
    def _latency(ring: str, load: str, latency: Any, rate: float | None) -> Record:
        return {
            "bench": "latency", "ring": ring, "load": load, "size": str(LATENCY_SIZE), "unit": "us",
            **{key: round(getattr(latency, key), 3) for key in ("p50", "p99", "p999", "worst")},
            "samples": latency.samples, "lost": latency.lost,
            "frames_per_second": None if rate is None else round(rate),
        }  # fmt: skip

    def _guests(self, size: str, ring: str, ways: int, asks: str) -> Any:
        from fastvhost.driver.guests import Guests, PairSettings

        a, b = (str(self.directory / name) for name in ("a.sock", "b.sock"))
        settings = PairSettings(
            sizes=_frame_bytes(size), both_ways=ways == 2, packed=ring == "packed", content=self.content,
            core=self.guests_core, asks=asks,
        )  # fmt: skip
        return Guests(a, b, settings)


def _rate_table(records: Sequence[Record]) -> str:
    rings = list(dict.fromkeys(record["ring"] for record in records))
    rows = [["bytes", "copy limit", *(word for ring in rings for word in (ring, "of limit", "Gbit/s"))]]
    for first in records[:: len(rings)]:
        limit = first["limit_frames_per_second"]
        row = [first["size"], f"{limit / 1e6:.2f}"]
        for record in (r for r in records if r["size"] == first["size"]):
            rate = record["frames_per_second"]
            # A limit of 0: other work kept the machine busy all the time.
            share = f"{100 * rate / limit:.0f} %" if limit else "-"
            row += [f"{rate / 1e6:.2f}", share, f"{record['bits_per_second'] / 1e9:.1f}"]
        rows.append(row)
    return f"Million frames per second, {WAYS[records[0]['ways']]}\n{table(rows, 'r' * len(rows[0]))}\n"


def _latency_table(records: Sequence[Record]) -> str:
    rows = [["ring", "load", "Mpps", "p50", "p99", "p99.9", "samples"]]
    for record in records:
        rate = record["frames_per_second"]
        rows.append([
            record["ring"], record["load"], "" if rate is None else f"{rate / 1e6:.2f}",
            *(f"{record[key]:.2f}" for key in ("p50", "p99", "p999")), str(record["samples"]),
        ])  # fmt: skip
    return f"Microseconds one way, {LATENCY_SIZE} bytes\n{table(rows, 'llrrrrr')}"
