"""Does a flood of both guests lose a frame, with --on-full hold? Every byte and the order are checked.

usage: python -m bench.loss [--seconds 60] [--ring split|packed] [--no-record]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.fwd import forwarder
from bench.record import write
from fastvhost.driver.guests import IMIX, Guests, PairSettings

# Frames are held for so long that guests may be without a CPU for a while and lose none.
HOLDS = ("--on-full", "hold", "--hold-timeout", "10s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.loss", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--ring", choices=("split", "packed"), default="split")
    parser.add_argument("--no-record", action="store_true")
    o = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="fv-loss-") as name:
        a, b = f"{name}/a.sock", f"{name}/b.sock"
        with forwarder(Path(name), [a, b], "--cores", str(cores[0]), *HOLDS):
            settings = PairSettings(sizes=IMIX, content="whole", core=cores[-1], packed=o.ring == "packed")
            guests = Guests(a, b, settings)
            guests.start()
            time.sleep(o.seconds)
            final = guests.stop()
    wrong = {key: getattr(final, key) for key in ("lost", "corrupt", "reordered", "duplicated")}
    said = ", ".join(f"{n} {key}" for key, n in wrong.items())
    print(f"{o.ring}, IMIX both ways, {o.seconds:g} s: {final.frames} frames, {said}")
    if not o.no_record:
        figure = {"bench": f"loss in a flood, {o.ring}", "unit": "frames lost", "median": final.lost}
        write("loss", [figure | wrong | {"frames": final.frames, "seconds": o.seconds}])
    return 1 if any(wrong.values()) or not final.frames else 0


if __name__ == "__main__":
    sys.exit(main())
