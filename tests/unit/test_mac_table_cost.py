"""The instructions of a look-up, and of an address that was learned already, counted by callgrind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import ROOT

CALLS = 1000 * 10
SCRIPT = """
from fastvhost.dataplane.forwarding_table import ForwardingTable
from tests.probes.mac_tables import Keys, destination
table = ForwardingTable(addresses=65536, ports=4)
keys = [destination(n.to_bytes(6, "little") + bytes(6), 1) for n in range(2, 2002, 2)]
there, absent = Keys(keys), Keys([key ^ 1 << 60 for key in keys])
there.learn_all(table, 1, 1)
there.stop()  # a part of the profile ends with each of these
there.count_all(10)
there.stop()
assert there.find_all(table, 10) == 10000
there.stop()
assert there.learn_all(table, 1, 10) == 0
there.stop()
table.set_tick(1)
assert there.find_all(table, 10) == 10000
there.stop()
assert absent.find_all(table, 10) == 0
there.stop()
"""
MOST = {"hit": 30, "learned already": 20, "hit of an older one": 50, "miss": 46}
"""Those of the loop itself do not count."""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By what was done."""
    directory = tmp_path_factory.mktemp("callgrind")
    loops = ("count_keys", "find_keys", "learn_keys")
    done = subprocess.run(
        [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/profile", "--collect-atstart=no",
            *(f"--toggle-collect=*{loop}*" for loop in loops), "--dump-after=*Keys*stop*",
            sys.executable, "-c", SCRIPT,
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    parts = sorted(Path(directory).glob("profile.*"), key=lambda path: int(path.suffix[1:]))
    totals = [int(re.findall(r"^totals: (\d+)", part.read_text(), re.M)[-1]) for part in parts]
    _, loop, *others = (total for total in totals if total)
    return {name: (total - loop) / CALLS for name, total in zip(MOST, others, strict=True)}


@pytest.mark.parametrize("what", MOST)
def test_what_a_frame_costs_at_the_table_stays_within_its_budget(counted: dict[str, float], what: str) -> None:
    assert MOST[what] * 0.9 <= counted[what] <= MOST[what]
