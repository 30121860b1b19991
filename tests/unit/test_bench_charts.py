"""Plots of bench: the same figures give the same picture, and a picture with other figures is out of date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bench import charts, generated

FOUND = {"ours": {"64 B": {"median": 2.0, "q1": 1.5, "q3": 2.5}, "512 B": {"median": 1.0, "q1": 0.5, "q3": 1.5}}}


def bars(**words: bool) -> str:
    return charts.bars("title", "unit", ["64 B", "512 B"], FOUND, **words)


def heights(picture: str) -> list[float]:
    """Of the bars, which have the first colour."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: #2f81f7"', picture)
    ends = [[float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)] for path in paths]
    return [max(ys) - min(ys) for ys in ends][:2]  # the third one is in the legend


def test_a_bar_twice_as_high_is_twice_the_figure() -> None:
    high, low = heights(bars())
    assert high == pytest.approx(2 * low)


def test_on_a_logarithmic_axis_bars_stand_on_a_power_of_ten_and_the_lowest_is_seen() -> None:
    high, low = heights(bars(logarithmic=True))
    assert high / low == pytest.approx(1.301, abs=0.01)  # log10 of 20 and 10: they stand on 0.1


def test_the_same_figures_give_the_same_text() -> None:
    assert bars() == bars()
    lines = charts.lines("title", "unit", ["64 B", "512 B"], FOUND)
    assert lines == charts.lines("title", "unit", ["64 B", "512 B"], FOUND)


def test_a_column_that_a_series_lacks_is_left_out() -> None:
    picture = charts.lines("title", "unit", ["64 B", "256 B", "512 B"], FOUND)
    assert picture.count("<use") == 2 + 1  # markers of two figures, and of the legend


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(SystemExit, match=re.escape("pip install -e '.[bench]'")):
        bars()


@pytest.mark.parametrize(
    ("name", "after", "same"),
    [
        ("a.svg", '<g x="1.000001 2.5"><text>1.25</text></g>', True),
        ("a.svg", '<g x="1.1 2.5"><text>1.25</text></g>', False),
        ("a.svg", '<g x="1.0 2.5"><text>1.251</text></g>', False),
        ("a.svg", '<g x="1.0 2.5" y="1.0"><text>1.25</text></g>', False),
        ("README.md", '<g x="1.000001 2.5"><text>1.25</text></g>', False),
    ],
)
def test_only_what_a_reader_of_a_picture_cannot_see_may_differ(name: str, after: str, same: bool) -> None:
    assert generated.same(Path(name), '<g x="1.0 2.5"><text>1.25</text></g>', after) == same


def test_nothing_is_drawn_and_nothing_written_when_only_the_help_is_wanted() -> None:
    with pytest.raises(SystemExit) as end:
        generated.bring_up_to_date(lambda: pytest.fail("was made"), ["--help"])
    assert end.value.code == 0
