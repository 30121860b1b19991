"""Small SVG charts with axes, readable on light and on dark pages: no library, no script, no style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 78
# Middle greys and middle tones: enough contrast with white and with black.
INK, GRID = "#808080", "#80808055"
COLOURS = ("#2f81f7", "#d9822b", "#3fa45b", "#a06cd5", "#c94f6d")


class Chart:
    """A frame with a title, and what is drawn into it."""

    def __init__(self, title: str, unit: str, top: float, *, bottom: float = 0.0, log: bool = False) -> None:
        self.top, self.bottom, self.log = top, bottom, log
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" font-size="13" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            _text(LEFT, 18, title, weight="bold"),
            _text(LEFT, 36, unit),
        ]
        for value in self._ticks():
            y = self.y(value)
            self._parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
            self._parts.append(_text(LEFT - 6, y + 4, short(value), anchor="end"))

    def _ticks(self) -> list[float]:
        if self.log:
            return [10.0**n for n in range(round(math.log10(self.bottom)), round(math.log10(self.top)) + 1)]
        step = nice_step(self.top / 5)
        return [step * n for n in range(int(self.top / step + 1e-9) + 1)]

    def y(self, value: float) -> float:
        """Where a value lies."""
        share = value / self.top
        if self.log:
            share = math.log(max(value, self.bottom) / self.bottom) / math.log(self.top / self.bottom)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def labels(self, at: Mapping[str, float]) -> None:
        """Below the axis."""
        for text, x in at.items():
            self._parts.append(_text(x, HEIGHT - BOTTOM + 20, text, anchor="middle"))

    def legend(self, names: Sequence[str], colours: Sequence[int] = ()) -> None:
        """A legend: names in their colours; by default the colours in order."""
        x = float(LEFT)
        for n, name in zip(colours or range(len(names)), names, strict=True):
            self._parts.append(f'<rect x="{x:.0f}" y="{HEIGHT - 28}" width="14" height="10" fill="{colour(n)}"/>')
            self._parts.append(_text(x + 19, HEIGHT - 19, name))
            x += 42 + 7.4 * sum(1 + (letter >= "\u3000") for letter in name)  # Chinese and Japanese ones are wide

    def line(self, points: Sequence[tuple[float, float]], n: int) -> None:
        """A polyline with a dot at each value."""
        path = " ".join(f"{x:.1f},{self.y(value):.1f}" for x, value in points)
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(n)}" stroke-width="2"/>')
        for x, value in points:
            self._parts.append(f'<circle cx="{x:.1f}" cy="{self.y(value):.1f}" r="3.5" fill="{colour(n)}"/>')

    def spread(self, x: float, low: float, high: float, n: int) -> None:
        """From the lower to the upper quartile."""
        self._parts.append(
            f'<path d="M{x:.1f} {self.y(low):.1f}V{self.y(high):.1f}" stroke="{colour(n)}" stroke-width="1.2"/>'
        )

    def bar(self, x: float, width: float, value: float, n: int, *, upright: str = "") -> None:
        """A bar with its figure above it; where bars are narrow, the text is upright."""
        y = self.y(value)
        height = HEIGHT - BOTTOM - y
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour(n)}"/>'
        )
        if upright:
            at = f"translate({x + width / 2 + 4:.1f} {y - 4:.1f}) rotate(-90)"
            self._parts.append(f'<text transform="{at}" font-size="11">{escape(upright)}</text>')
        else:
            self._parts.append(_text(x + width / 2, y - 4, f"{value:.3g}", anchor="middle", size=11))

    def text(self) -> str:
        """The file."""
        axis = f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="{INK}"/>'
        return "\n".join([*self._parts, axis, "</svg>"]) + "\n"


def nice_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def short(value: float) -> str:
    """Three digits, with k or M behind them rather than many zeros."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e3 else f"{value:.3g}"


def colour(n: int) -> str:
    return COLOURS[n % len(COLOURS)]


def places(n: int) -> list[float]:
    """The middles of n equal columns."""
    width = (WIDTH - LEFT - RIGHT) / n
    return [LEFT + width * (i + 0.5) for i in range(n)]


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
