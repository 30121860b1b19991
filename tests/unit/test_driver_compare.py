"""scripts/compare (bench/compare.py) and what it is made of, with fastvhost against itself: no peers, no root."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import backends, guest_load
from bench.backends import BackEnd, BackEndError, Fastvhost, kind_of
from bench.cache_line import CacheLine
from bench.compare import KINDS, compared, figure, table
from bench.guests.short_dir import short_dir
from bench.setups import SETUPS
from bench.turns import Pair, paired_ratios, summary

ROOT = Path(__file__).resolve().parent.parent.parent
COMPARE = ["-m", "bench.compare"]


def test_two_back_ends_take_turns_under_the_same_load_and_nothing_stays_behind() -> None:
    options = ["--sizes", "imix", "--rounds", "2", "--turn", "0.3", "--json", "--no-record"]
    with short_dir() as place:
        done = subprocess.run(
            [sys.executable, *COMPARE, "--backends", f"fastvhost@poll,fastvhost:{ROOT}@packed+in-order", *options],
            cwd=ROOT, env=os.environ | {"TMPDIR": str(place)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert list(place.iterdir()) == []
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has just ended
                assert str(place).encode() not in cmdline.read_bytes()
    result = json.loads(done.stdout)
    names = ["fastvhost@poll", f"fastvhost:{ROOT}@packed+in-order"]
    assert list(result["figures"]) == names
    assert list(result["ratios"]) == ["/".join(names)]
    for name in names:
        assert result["figures"][name]["median"] > 0
        assert result["faults"][name]["corrupt"] == result["faults"][name]["duplicated"] == 0


def test_another_tree_is_what_runs_wherever_the_comparison_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tree" / "fastvhost"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit('this is the other tree')")
    monkeypatch.chdir(ROOT)
    back_end = Fastvhost(f"fastvhost:{package.parent}", tmp_path / "back-end", 0, None)
    try:
        with pytest.raises(BackEndError, match="this is the other tree"):
            back_end.start()
    finally:
        back_end.stop()


@pytest.mark.parametrize("name", SETUPS)
def test_a_named_comparison_is_one_that_can_be_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = SETUPS[name]
    back_ends = setup.backends.split(",")
    assert len(set(back_ends)) == len(back_ends) > 1
    assert {kind_of(back_end) for back_end in back_ends} <= set(KINDS)
    assert len(set(setup.cases)) == len(setup.cases)
    for case in setup.cases:
        options = [] if setup.virtio_user else case.guests.split()
        monkeypatch.setattr(sys, "argv", ["guest_load", "a.sock", "b.sock", "--size", case.size, *options])
        assert guest_load.arguments().sockets == ["a.sock", "b.sock"]


def test_rates_of_frames_that_are_cut_perhaps_are_told_in_gbit() -> None:
    windows: list[dict[str, float]] = [{"d": 0.5, "frames": 1000, "bytes": 125e6}] * 2
    assert figure(windows, SETUPS["tso"]) == 2
    assert figure(windows, SETUPS["rates"]) == 0.002
    assert figure([], SETUPS["tso"]) is None


def test_a_peer_that_is_switched_to_take_offloads_has_guests_like_the_others(tmp_path: Path) -> None:
    back_end = backends.Testpmd("testpmd@tso", tmp_path / "back-end", 0, None)
    try:
        assert back_end.guest_options == []
        assert "tso=1" in back_end.port_words
    finally:
        back_end.stop()


def test_each_back_end_is_compared_with_the_first_and_with_its_own_variants() -> None:
    assert compared(["probe", "probe@vgen", "fastvhost", "fastvhost@vgen"]) == [
        ("probe", "probe@vgen"),
        ("probe", "fastvhost"),
        ("probe", "fastvhost@vgen"),
        ("fastvhost", "fastvhost@vgen"),
    ]


def test_dpdk_as_both_guests_takes_its_turns() -> None:
    options = ["--setup", "virtio-user", "--backends", "fastvhost", "--guests", "mrg_rxbuf=1,packed_vq=1"]
    done = subprocess.run(
        [sys.executable, *COMPARE, *options, "--rounds", "2", "--turn", "0.3", "--json", "--no-record"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["figures"]["fastvhost"]["median"] > 0
    assert result["faults"] == {"fastvhost": {}}


def test_an_unknown_back_end_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, *COMPARE, "--backends", "snabb"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no back-end snabb; there are fastvhost, testpmd, ovs" in done.stderr


def test_ratios_are_of_the_same_round_and_missed_rounds_count_for_nobody() -> None:
    slow_machine_then_fast = [1.0, None, 10.0, 4.0], [0.5, 7.0, 5.0, None]
    assert paired_ratios(*slow_machine_then_fast) == {"median": 2.0, "q1": 2.0, "q3": 2.0}


def test_quartiles_of_little_are_what_little_says() -> None:
    assert summary([1, 2, 3, 4, 5]) == {"median": 3, "q1": 2, "q3": 4}
    assert summary([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0}
    assert math.isnan(summary([])["median"])


class GuestsWithoutFrames(Pair):
    """One window without a frame, and they are gone."""

    def _command(self, _arguments: Sequence[str]) -> list[str]:
        window = {"t": 1.0, "d": 0.05, "frames": 0}
        return [sys.executable, "-c", f"print({json.dumps(window)!r})"]


def test_a_window_without_frames_is_no_traffic_yet(tmp_path: Path) -> None:
    """A peer may still be setting itself up when both guests are connected; its turns would measure that."""
    back_end = BackEnd("peer", tmp_path / "back-end", 0, None)
    pair = GuestsWithoutFrames(back_end, [])
    try:
        with pytest.raises(BackEndError, match="peer: no traffic"):
            pair.await_traffic()
        assert len(pair.windows) == 1
    finally:
        pair.finish()
        back_end.stop()


def test_a_cache_line_is_measured_or_given_up_within_seconds_where_its_two_threads_have_one_cpu(tmp_path: Path) -> None:
    """Each crossing takes a time slice then: fifty thousand of them would take minutes."""
    cpu = min(os.sched_getaffinity(0))
    crossing = CacheLine(tmp_path, cpu, cpu).crossing_ns()
    assert crossing is None or crossing > 0


def test_a_busy_machine_costs_the_figure_of_the_cache_line_and_not_the_comparison(tmp_path: Path) -> None:
    line = CacheLine(tmp_path, 0, 1)
    (tmp_path / "cache_line").write_text("#!/bin/sh\nexit 2\n")
    assert line.crossing_ns() is None
    told = {"figures": {}, "ratios": {}, "size": "64", "guests": "", "unit": "Mpps"}
    assert table(told) == "64 bytes, Mpps"
