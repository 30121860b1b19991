"""A kernel that does not overcommit memory (vm.overcommit_memory=2): a setting of a whole machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SETTING = Path("/proc/sys/vm/overcommit_memory")
STRICT = "2"
LARGER_THAN_IT_HAS = 1 << 36

A_FILE_CUT_SHORT = f"""
from tests.driver import Memory
from tests.unit.rig import frame, rig
with rig(memory=Memory.of({LARGER_THAN_IT_HAS})) as r:
    r.b.driver.post(5)
    r.a.driver.send(frame(1))
    r.settle()
    r.a.driver.send(frame(2))
    r.a.memory.regions[0].truncate(0)
    for _ in range(5):
        r.worker.step()
    print([what for what, _, _ in r.a.port.events()], r.b.driver.receive_all()[0] == frame(1))
"""


@pytest.fixture
def strict() -> Iterator[None]:
    before = SETTING.read_text()
    SETTING.write_text(STRICT)
    try:
        yield
    finally:
        SETTING.write_text(before)


@pytest.mark.usefixtures("strict")
def test_a_large_memory_cut_short_faults_that_port_and_not_the_process_where_none_is_promised_beforehand() -> None:
    words = [sys.executable, "-c", A_FILE_CUT_SHORT]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "['first_frame', 'faulted'] True\n"), done.stderr[-2000:]
