"""The units of deploy/systemd: systemd finds no fault with them, and they are not much exposed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.house import sources

DEPLOY = sources.ROOT / "deploy" / "systemd"
DROP_INS = sorted((DEPLOY / "drop-ins").glob("*.conf"))
UNIT = "fastvhost@.service"
MOST_EXPOSED = 3.0
LATER = {"notify-reload.conf"}
"""Of a later systemd than Debian 12's."""


def made(place: Path, unit: str, *drop_ins: Path) -> Path:
    """A copy of a unit whose program exists, with drop-ins at its end, where they have the last word, too."""
    path = place / UNIT
    text = "\n".join(one.read_text() for one in (DEPLOY / unit, *drop_ins))
    path.write_text(re.sub(r"^(Exec\w+=)\S+/fastvhost ", r"\1/bin/true ", text, flags=re.MULTILINE))
    return path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XDG_RUNTIME_DIR": "/tmp", "SYSTEMD_COLORS": "0"}
    command = ["systemd-analyze", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path.stem if path else "none")
def test_a_unit_is_understood_and_its_exposure_is_below_three(tmp_path: Path, drop_in: Path | None) -> None:
    path = made(tmp_path, UNIT, *filter(None, [drop_in]))
    if drop_in is None or drop_in.name not in LATER:
        done = analyze("verify", "--man=no", path)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = analyze("security", "--offline=yes", path)
    found = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) < MOST_EXPOSED


def test_the_unit_of_a_user_is_understood(tmp_path: Path) -> None:
    done = analyze("verify", "--user", "--man=no", made(tmp_path, f"user/{UNIT}"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_both_units_notify_and_have_a_watchdog() -> None:
    for unit in (UNIT, f"user/{UNIT}"):
        lines = (DEPLOY / unit).read_text().splitlines()
        assert {"Type=notify", "WatchdogSec=30"} <= set(lines)


@pytest.mark.parametrize("path", DROP_INS, ids=lambda path: path.stem)
def test_a_drop_in_says_what_it_is_for_and_where_it_goes(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert f"\n# /etc/systemd/system/fastvhost@NAME.service.d/{path.name}\n" in path.read_text()
