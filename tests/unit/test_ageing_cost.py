"""What a frame costs while addresses age and are flushed, by callgrind: control does the work, not the worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.house.sources import ROOT

COUNTED, PART_ENDS = "*Worker_round*", "*GuestRam*let_go*"
SCRIPT = """
import sys
from dataclasses import replace
from bench.rig import POLLED, rig
from tests.probes.mac_tables import Keys, destination

ROUNDS, OTHERS = 40, 40000
keys = [destination(n.to_bytes(6, "little") + bytes(6), 0) for n in range(1 << 20, (1 << 20) + 2 * OTHERS, 2)]
for ages in (False, True):
    with rig(replace(POLLED, sizes=(64,)), learn=True) as r:
        r.table.set_limits(2, max_macs=1 << 20)
        others, frames, gone = Keys(keys), 0, 0
        for n in range(ROUNDS):
            if n % 10 == 0:
                others.learn_all(r.table, 2, 1)
                assert r.table.counters(2)["entries"] > OTHERS * 0.95
            if ages:
                # Far more often than once a second: before each round.
                r.table.set_tick(400 * (n // 10) + n)
                gone += r.table.sweep(r.table.buckets // 8)
                gone += r.table.flush(port=2) if n % 10 == 9 else 0
            r.load.step()
            frames += r.worker.step()
        assert not ages or gone > 2 * OTHERS, gone
    print(frames, flush=True)
"""
MOST_MORE = 8.0
"""Instructions a frame of 64 in a round, which finds another second, looks two addresses up, and refreshes one."""


def test_a_frame_costs_the_same_while_a_full_table_ages_and_is_flushed(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={tmp_path}/profile", "--collect-atstart=no",
            f"--toggle-collect={COUNTED}", f"--dump-after={PART_ENDS}", sys.executable, "-c", SCRIPT,
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "FASTVHOST_CPU_LEVEL": "avx2"},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    parts = sorted(tmp_path.glob("profile.*"), key=lambda path: int(path.suffix[1:]))
    totals = [int(re.findall(r"^totals: (\d+)", part.read_text(), re.M)[-1]) for part in parts]
    frames = [int(line) for line in done.stdout.split()]
    quiet, ageing = (total / n for total, n in zip(filter(None, totals), frames, strict=True))
    assert quiet <= ageing <= quiet + MOST_MORE
