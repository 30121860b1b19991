"""Resident memory of fwd per extra pair of ports, beside the guests' own memory.

usage: python -m bench.memory [--no-record]
Starts fwd with one pair of ports and with several, connects a pair of built-in guests to each, lets frames through, and
divides the difference. Guests' memory is shared memory (RssShmem, or hugepages), which is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import time
from pathlib import Path

from bench.fwd import forwarder
from bench.record import write
from fastvhost.driver.guests import Guests, PairSettings

PAIRS = 9
OWN = ("RssAnon", "RssFile")


def resident_kib(pid: int) -> int:
    """Anonymous memory and files; not what is shared with the guests."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(re.findall(rf"^{kind}:\s+(\d+) kB", status, re.M)[0]) for kind in OWN)


def measure(pairs: int) -> int:
    """Resident KiB of a fwd with this many pairs of ports, all of them in use."""
    with contextlib.ExitStack() as closing:
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="fv-mem-")))
        sockets = [str(directory / f"{n}.sock") for n in range(2 * pairs)]
        process = closing.enter_context(forwarder(directory, sockets))
        for a, b in zip(sockets[::2], sockets[1::2], strict=True):
            guests = Guests(a, b, PairSettings(queue_size=256, huge=False))
            closing.callback(guests.stop)
            guests.start()
            time.sleep(0.05)
            guests.stop_load()
        return resident_kib(process.pid)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--no-record", action="store_true")
    o = parser.parse_args()
    one, many = measure(1), measure(PAIRS)
    each = (many - one) / (PAIRS - 1)
    print(f"{one} KiB with one pair of ports, {many} KiB with {PAIRS}: {each:.0f} KiB for each extra pair")
    if not o.no_record:
        figure = {"bench": "memory per extra port pair", "unit": "KiB", "median": round(each), "one_pair": one}
        write("memory", [figure | {"pairs": PAIRS}])
    return 0


if __name__ == "__main__":
    sys.exit(main())
