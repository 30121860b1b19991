"""fastvhost bench: what it prints can be read and fits together; wrong options are one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from fastvhost.cli import main as entry
from fastvhost.driver.copy_limit import CopyLimit
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature
from fastvhost.driver.guests import IMIX, Guests
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings
from tests.unit.test_driver_guests import fwd

ROOT = Path(__file__).resolve().parent.parent.parent


def bench(*options: str, **settings: str) -> str:
    """Run it; its standard output. settings: for its environment."""
    done = subprocess.run(
        [sys.executable, "-m", "fastvhost", "bench", "--seconds", "40ms", *options],
        cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.alone  # floods
def test_every_line_of_json_is_a_measurement_whose_figures_fit_together() -> None:
    with short_dir() as place:
        said = bench("--json", "--sizes", "64,9000,imix", TMPDIR=str(place))
        assert list(place.iterdir()) == []
    records = [json.loads(line) for line in said.splitlines()]
    rates = [r for r in records if r["bench"] == "rate"]
    assert [(r["ways"], r["size"], r["ring"]) for r in rates] == [
        (ways, size, ring) for ways in (1, 2) for size in ("64", "9000", "imix") for ring in ("split", "packed")
    ]
    frame_bytes = {"64": 64.0, "9000": 9000.0, "imix": sum(IMIX) / len(IMIX)}
    for r in rates:
        assert r["frames"] > 0
        assert r["limit_frames_per_second"] >= 0
        assert r["lost"] == r["corrupt"] == r["reordered"] == r["duplicated"] == 0
        if r["frames_per_second"]:    # a moment of another process's: nothing came
            each = r["bits_per_second"] / 8 / r["frames_per_second"]
            assert each == pytest.approx(frame_bytes[r["size"]], rel=0.5 if r["size"] == "imix" else 0.02)
    latencies = [r for r in records if r["bench"] == "latency"]
    assert [(r["ring"], r["load"]) for r in latencies] == [
        (ring, load) for ring in ("split", "packed") for load in ("one frame in flight", "half the rate", "flood")
    ]
    for r in latencies:
        assert 0 < r["p50"] <= r["p99"] <= r["p999"] <= r["worst"]
        assert r["samples"] > 0
        assert r["lost"] == 0
    assert len(rates) + len(latencies) == len(records)


def test_the_table_has_a_row_per_size_and_a_block_per_direction() -> None:
    out = bench("--sizes", "60,imix", "--rings", "packed", "--no-latency", "--content", "whole")
    blocks = out.split("\n\n")
    for block, ways in zip(blocks, ("one way", "both ways"), strict=False):
        title, head, *rows = block.splitlines()
        assert title == f"Million frames per second, {ways}"
        assert head.split() == ["bytes", "copy", "limit", "packed", "of", "limit", "Gbit/s"]
        assert [row.split()[0] for row in rows] == ["60", "imix"]
        assert all(re.fullmatch(r" *\w+ +[\d.]+ +[\d.]+ +(\d+ %|-) +[\d.]+", row) for row in rows)
    assert len(blocks) == 3
    assert blocks[2] == ""


@pytest.mark.alone  # floods
def test_guests_may_ask_for_checksums_and_segments() -> None:
    said = bench("--json", "--sizes", "1000,65000", "--rings", "split", "--asks", "segments", "--no-latency")
    rates = [json.loads(line) for line in said.splitlines()]
    assert [(r["ways"], r["size"], r["asks"]) for r in rates] == [
        (ways, size, "segments") for ways in (1, 2) for size in ("1000", "65000")
    ]
    assert all(r["frames"] > 0 and r["corrupt"] == r["lost"] == 0 for r in rates)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--sizes", "59"], "59 is no size; give 60 to 65000, or imix"),
        (["--sizes", "64,"], "nothing is no size"),
        (["--sizes", "big"], "big is no size"),
        (["--asks", "checksum", "--sizes", "imix"], "with --asks checksum give 70 bytes or more, and no mixture"),
        (["--asks", "much"], "--asks"),
        (["--rings", "round"], "round is no ring"),
        (["--seconds", "soon"], "--seconds"),
        (["--seconds", "0"], "--seconds"),
        (["--content", "half"], "--content"),
        (["--rounds", "3"], "see fastvhost bench --help"),
    ],
)
def test_a_wrong_option_is_one_line(options: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["bench", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"fastvhost: [^\n]+\n", err)
    assert text in err


def guest(tag: int, features: Feature = Feature.VERSION_1) -> GuestDevice:
    settings = GuestSettings(queue_size=64, sizes=(60, 1500, 9000), content="whole", kick=False, huge=False)
    return GuestDevice(settings, features=int(features), tag=tag, peer_tag=3 - tag)


def test_the_copy_limit_really_copies_every_frame() -> None:
    a, b = guest(1), guest(2)
    wire, load = CopyLimit(a, b), Load(a, b)
    for _ in range(30):
        load.step()
        wire.step()
    load.drain()
    for _ in range(5):
        load.step()
        wire.step()
    for sender, receiver in ((a, b), (b, a)):
        assert sender.sent[0] >= 30 * 64
        assert receiver.received == (*sender.sent, 0, 0, 0, 0)
    a.close()
    b.close()


@pytest.mark.parametrize("features", [Feature.VERSION_1 | Feature.MRG_RXBUF, Feature.VERSION_1 | Feature.RING_PACKED])
def test_the_copy_limit_refuses_guests_it_cannot_serve(features: Feature) -> None:
    a, b = guest(1, features), guest(2, features)
    with pytest.raises(ValueError, match="split rings"):
        CopyLimit(a, b)
    a.close()
    b.close()


def test_frames_picked_out_of_a_load_are_timed_and_the_load_keeps_its_pace() -> None:

    with short_dir() as directory, fwd(directory) as (a, b):
        guests = Guests(a, b)
        paced, rate = guests.latency_under_load(0.3, 20_000)
        flood, most = guests.latency_under_load(0.1)
        guests.stop()
    assert paced.samples > 10
    assert paced.lost == flood.lost == 0
    # Each way; less where the machine was busy with others, never more.
    assert 0 < rate <= 2 * 20_000 * 1.05
    assert most > rate
