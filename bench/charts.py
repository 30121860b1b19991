"""Plots as SVG, readable on light and on dark pages. The only file that needs matplotlib; it loads it when it draws.

The same figures give the same text: no date, ids from their content, a layout of fixed sizes. Words stay text.
"""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summary: TypeAlias = Mapping[str, float]
"""A median, and where they are known its quartiles: q1, q3."""
Series: TypeAlias = Mapping[str, Mapping[str, Summary]]
"""By the name in the legend, and by column; a column may be missing."""

# Middle greys and middle tones: enough contrast with white and with black.
INK = "#808080"
COLOURS = ("#2f81f7", "#d9822b", "#3fa45b", "#a06cd5", "#c94f6d")
STYLE: dict[str, Any] = {
    "figure.figsize": (7.5, 4),
    "font.size": 10,
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "fastvhost",
    "savefig.transparent": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 14,
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": INK,
    "grid.alpha": 0.33,
    "xtick.color": INK,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
}
PLACE = (0.09, 0.2, 0.9, 0.68)
"""Of the axes in the figure: left, bottom, width, height."""


def lines(title: str, unit: str, columns: Sequence[str], series: Series) -> str:
    """A line for each series, with the quartiles at each of its medians."""
    with _axes(title, unit, columns) as (axes, text):
        for colour, (name, found) in zip(COLOURS, series.items(), strict=False):
            at = [column for column in columns if column in found]
            places, medians = [columns.index(column) for column in at], [found[column]["median"] for column in at]
            axes.errorbar(places, medians, _quartiles([found[column] for column in at]), label=name, color=colour,
                          marker="o", markersize=5, linewidth=2, elinewidth=1.2)  # fmt: skip
        axes.set_ylim(bottom=0)
    return text()


def bars(
    title: str, unit: str, columns: Sequence[str], series: Series, *,
    logarithmic: bool = False, colours: Sequence[str] = COLOURS, upright: bool = False,
) -> str:  # fmt: skip
    """A bar for each series in each column, with its figure above it; where bars are narrow, the figure is upright."""
    width = 0.84 / len(series)
    bottom = _decade_below(series) if logarithmic else 0.0
    with _axes(title, unit, columns) as (axes, text):
        if logarithmic:
            axes.set_yscale("log")
            axes.minorticks_off()
        for n, (colour, (name, found)) in enumerate(zip(colours, series.items(), strict=False)):
            at = [column for column in columns if column in found]
            middles = [columns.index(column) + (n - (len(series) - 1) / 2) * width for column in at]
            tops = [found[column]["median"] for column in at]
            drawn = axes.bar(middles, [top - bottom for top in tops], width * 0.92, bottom, label=name, color=colour)
            axes.bar_label(drawn, [short(top) for top in tops], rotation=90 * upright, padding=3, fontsize=8)
        axes.margins(y=0.22 if upright else 0.1)
        axes.set_ylim(bottom=bottom)
    return text()


def short(value: float) -> str:
    """Three digits, with k or M behind them rather than many zeros."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e3 else f"{value:.3g}"


def _decade_below(series: Series) -> float:
    """The largest power of ten that is at most half of the lowest figure: its bar is seen."""
    lowest = min(summary["median"] for found in series.values() for summary in found.values())
    return float(10 ** math.floor(math.log10(lowest / 2)))


def _quartiles(found: Sequence[Summary]) -> list[list[float]]:
    """How far they lie below and above the medians."""
    return [[one["median"] - one["q1"] for one in found], [one["q3"] - one["median"] for one in found]]


@contextmanager
def _axes(title: str, unit: str, columns: Sequence[str]) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Axes to draw into, and what gives the picture's text behind the block."""
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("plots need matplotlib; in the checkout: .venv/bin/pip install -e '.[bench]'")
    written = io.StringIO()
    with matplotlib.style.context(STYLE, after_reset=True), warnings.catch_warnings():
        # Japanese words are measured with a font that lacks them; the reader's browser has one.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = Figure()
        axes = figure.add_axes(PLACE)
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        yield axes, written.getvalue
        axes.yaxis.set_major_formatter(lambda value, _: short(value))
        axes.legend(loc="upper left", bbox_to_anchor=(-0.01, -0.11), ncols=len(axes.get_legend_handles_labels()[0]),
                    columnspacing=2.5)  # fmt: skip
        figure.savefig(written, format="svg", metadata={"Creator": None, "Date": None, "Title": title})
