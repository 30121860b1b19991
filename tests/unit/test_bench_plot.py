"""docs/performance.md and its plots have the figures of bench/results."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import plot
from bench.generated import out_of_date

MACHINE = {
    "commit": "0123456789ab", "date": "2026-01-02T03:04:05+00:00",
    "build": {"flags": "-O3 -g -Wall", "compiler": "gcc 1"}, "machine": {"cpu": "CPU", "cpus": 2, "kernel": "6.1"},
}  # fmt: skip


def test_the_page_and_the_plots_are_what_the_script_makes_of_the_committed_results() -> None:
    assert out_of_date(plot.wanted()) == [], "run python -m bench.plot"


def test_every_table_has_its_place_on_the_page_and_every_place_its_table() -> None:
    assert sorted(match["name"] for match in plot.MARK.finditer(plot.PAGE.read_text())) == sorted(plot.TABLES)

@pytest.mark.parametrize("lines", sorted(plot.RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_file_of_results_has_lines_of_one_program(lines: Path) -> None:
    """Those of scripts/compare have figures by back-end."""
    assert len({"figures" in json.loads(line) for line in lines.read_text().splitlines()}) == 1


CROSSING = {"median": 90.0, "q1": 60.0, "q3": 260.0}


def record(size: str, median: float) -> dict[str, object]:
    spread = {"median": median, "q1": median / 2, "q3": median * 2}
    return MACHINE | {
        "bench": "rate", "size": size, "unit": "Mpps", "guests": "", "rounds": 3,
        "figures": {"fastvhost": spread, "<peer>": spread}, "ratios": {"fastvhost/<peer>": spread},
        "percentiles": {"fastvhost": {"p50": 0.2, "p99": 1.5, "p999": 30.0}},
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
    return tmp_path


def test_the_newest_record_of_a_load_counts_and_sizes_stand_in_order(results: Path) -> None:
    lines = [record("1518", 5), record("64", 1), record("64", 40), record("imix", 7)]
    (results / "rates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (results / "rates-between.jsonl").write_text(json.dumps(record("256", 9)) + "\n")
    picture, _, other, _, *rows = plot.TABLES["rates"]().splitlines()
    assert picture == "![rate by frame size](plots/rates.svg)"
    assert other == "![paired ratios by frame size](plots/ratios.svg)"
    assert rows[0] == "| bytes | fastvhost | <peer> | fastvhost/<peer> |"
    assert [row.split(" | ")[0] for row in rows[2:6]] == ["| 64", "| 256", "| 1518", "| imix"]
    assert "40.00 (20.00..80.00)" in rows[2]
    assert "commit 0123456789ab, 2026-01-02, CPU, 2 CPUs, kernel 6.1, gcc 1 `-O3 -g`" in rows[-1]


def test_each_machine_has_its_newest_ratios_side_by_side(results: Path) -> None:
    other = record("64", 2) | {"machine": {"cpu": "another", "cpus": 2, "kernel": "6.1"}, "crossing_ns": CROSSING}
    lines = [record("64", 1), other, record("64", 40), record("512", 3)]
    (results / "rates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    head, _, *rows = plot.TABLES["machines"]().splitlines()
    assert head == "| bytes, machine | a line crosses, ns | fastvhost/<peer> | commit |"
    assert rows == [
        "| 64, CPU |  | 40.00 (20.00..80.00) | 0123456789ab |",
        "| 64, another | 90.00 (60.00..260.00) | 2.00 (1.00..4.00) | 0123456789ab |",
        "| 512, CPU |  | 3.00 (1.50..6.00) | 0123456789ab |",
    ]


def test_plots_show_every_back_end_every_size_and_the_figures_of_bars(results: Path) -> None:
    for name in ("rates", "latency"):
        (results / f"{name}.jsonl").write_text("".join(json.dumps(record(size, 3)) + "\n" for size in ("64", "512")))
    shown = {
        "rates.svg": {"fastvhost", "<peer>", "64 B", "512 B", "Mpps"},
        "ratios.svg": {"fastvhost/<peer>", "64 B", "512 B", "3"},
        "latency.svg": {"fastvhost", "median", "99 %", "99.9 %", "0.2", "1.5", "30"},
    }
    for name, words in shown.items():
        picture = plot.PICTURES[name]()
        assert picture is not None
        said = {element.text for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")}
        assert words <= said, name


def test_without_results_there_is_a_note_instead_of_a_table(results: Path) -> None:
    assert list(results.iterdir()) == []
    assert {make() for make in plot.TABLES.values()} == {plot.NOTHING}
    assert {draw() for draw in plot.PICTURES.values()} == {None}
