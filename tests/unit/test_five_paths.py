"""docs/five-paths.md, its Japanese version, their drawings and plots have the figures of bench/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import five_paths
from bench.generated import out_of_date
from bench.path_drawings import COPIES

SVG = "{http://www.w3.org/2000/svg}"


def test_pages_drawings_and_plots_are_what_the_script_makes_of_the_committed_results() -> None:
    assert out_of_date(five_paths.wanted()) == [], "run python -m bench.five_paths"


@pytest.mark.parametrize("page", five_paths.PAGES.values(), ids=lambda page: page.name)
def test_each_page_has_a_place_for_everything_that_is_made(page: Path) -> None:
    places = [match["name"] for match in five_paths.MARK.finditer(page.read_text())]
    assert places == ["path-1", "path-2", "path-3", "path-4", "path-5", "plot", "ratios", "table"]


def row(path: int, where: str, rate: float, commit: str = "0123456789ab") -> dict[str, Any]:
    direction = {
        "frames_per_second": rate, "gbit_per_second": rate * 64 * 8 / 1e9,
        "cpu_seconds_per_million_frames": dict.fromkeys(five_paths.PARTS, 1.25),
    }  # fmt: skip
    return dict.fromkeys(five_paths.DIRECTIONS, direction) | {
        "path": path, "where": where, "bytes": 64, "round_trip_us": {"median": 80.0, "p99": 900.0},
        "commit": commit, "date": "2026-01-02T03:04:05+00:00", "machine": {"cpu": "CPU", "cpus": 2},
    }  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two rounds of all five in the outer guest, one of two of them here; and what an older commit did."""
    lines = [row(5, "outer guest", 1.0, "older")]
    for speed in (1, 2):
        lines += [row(path, "outer guest", speed * 100 * path**2) for path in five_paths.PATHS]
    lines += [row(path, "this host", 40000 * path) for path in (2, 5)]
    (tmp_path / "five-paths.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(five_paths, "RESULTS", tmp_path)
    return five_paths.recorded()


def test_medians_and_spread_of_the_newest_commit_stand_in_the_table(rows: list[dict[str, Any]]) -> None:
    table = five_paths.Page("", rows).table().splitlines()
    assert len(table) == 2 + 3 * (5 + 2) + 2
    assert table[2].startswith("| 1 | outer guest | guest → App1 | 150 (100..200) | 7.68e-05 | 1.25 |")
    assert table[4].endswith("| 80 µs / 900 µs |")
    assert "2 rounds, 64 B frames, commit 0123456789ab" in table[-1]


def test_ratios_are_of_paths_in_the_same_round(rows: list[dict[str, Any]]) -> None:
    outer, host = five_paths.Page("", rows).ratios().splitlines()
    assert "Outer guest: path 5 carries 6.2 times" in outer
    assert "(2 rounds, 6.2 to 6.2), path 4 4.0 times." in outer
    assert "This host: path 5 carries 2.5 times" in host
    assert "6.2 倍" in five_paths.Page(".ja", rows).ratios()


@pytest.mark.parametrize("language", five_paths.PAGES)
@pytest.mark.parametrize("path", five_paths.PATHS)
def test_a_drawing_shows_each_copy_and_what_was_measured(rows: list[dict[str, Any]], path: int, language: str) -> None:
    tree = ElementTree.fromstring(five_paths.Page(language, rows).picture(path))
    dots = [element.get("class") for element in tree.iter(f"{SVG}circle")]
    assert (dots.count("in-fill"), dots.count("out-fill")) == COPIES[path]
    said = [element.text or "" for element in tree.iter(f"{SVG}text")]
    assert any(text.startswith(f"{150 * path**2:,} ") for text in said)
    assert sum("1.25 s" in text for text in said) == 4 + (path == 3)


def test_the_japanese_pictures_have_no_english_sentence_left(rows: list[dict[str, Any]]) -> None:
    page = five_paths.Page(".ja", rows)
    names = re.compile(r"(/dev/)?fastvhost|virtio-net|vhost-(net|user)|tap|libpcap|ioctl|eventfd|pcap|skb")
    for picture in [*(page.picture(path) for path in five_paths.PATHS), page.plot() or ""]:
        for element in ElementTree.fromstring(picture).iter(f"{SVG}text"):
            assert not re.search(r"[a-z]{3}", names.sub("", element.text or "")), element.text


def test_without_results_there_is_a_note_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(five_paths, "RESULTS", tmp_path)
    assert five_paths.recorded() == []
    page = five_paths.Page("", [])
    assert {page.table(), page.ratios(), page.made("plot")} == {"Not recorded yet.\n"}
    assert "not recorded" in page.picture(3)
