"""Numbers and tables as people read them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO


def si(value: float, unit: str = "") -> str:
    """3.21 M, 640 k, 12: three digits and a prefix."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_three_digits(value / factor)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def table(rows: Sequence[Sequence[str]], right: str = "") -> str:
    """Columns of equal width, two spaces between. right: one character per column, 'r' aligns it to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right[column : column + 1] == "r" else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Coloured on a terminal, plain everywhere else and where NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\033[{ {'red': 31, 'green': 32, 'yellow': 33}[colour] }m{text}\033[0m"
