"""The columns of ports: what stands in them, what they are sorted by, and which of them there is room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastvhost.cli.live.rows import PortRow
from fastvhost.cli.text import si

Value = float | str | None
UNKNOWN = "-"
BAD = "bad"
LEAST_NAME = 12
SMALL = 9.95


def number(value: Value) -> str:
    """3.21M, 640k, 12, and 0.3 for a rate that is not quite nothing."""
    if value is None:
        return UNKNOWN
    if isinstance(value, float) and 0 < value < SMALL:
        return f"{max(value, 0.1):.1f}"
    return si(float(value)).replace(" ", "")


def percent(value: Value) -> str:
    """97%. What is not quite nothing, or not quite all, does not look so: 0.3 % are 1%, and 99.8 % are 99%."""
    if value is None:
        return UNKNOWN
    share = float(value)
    return f"{0 if share == 0 else 100 if share == 1 else min(99, max(1, round(share * 100)))}%"


def text(value: Value) -> str:
    """As it is."""
    return str(value)


def plain(value: Value) -> str:
    """A number without a prefix."""
    return UNKNOWN if value is None else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Column:
    """One of them."""

    name: str
    """By which --sort knows it."""
    title: str
    width: int
    rank: int
    """Those of a low rank are shown where not all have room."""
    value: Callable[[PortRow], Value]
    shown: Callable[[Value], str]
    meaning: str
    falls: bool = True
    """Whether the highest value comes first."""

    def cell(self, row: PortRow) -> str:
        """What stands in a row."""
        if self.name == "bufs" and row.broken:
            return BAD
        return self.shown(self.value(row))

    def script(self, row: PortRow) -> str:
        """The same for a program."""
        return plain(self.value(row)) if self.shown is number else self.cell(row)

    def order(self, row: PortRow) -> tuple[int, float | str]:
        """A key to sort by. What is not known comes last, a ring that is broken before one without buffers."""
        value = self.value(row)
        if self.name == "bufs" and row.broken:
            return 0, 0.0
        if value is None:
            return 2, 0.0
        return 1, value if isinstance(value, str) or not self.falls else -value


COLUMNS = (
    Column("port", "port", LEAST_NAME, 0, lambda row: row.name, text, "its name", falls=False),
    Column("kind", "kind", 10, 11, lambda row: row.kind, text, "its kind", falls=False),
    Column("link", "link", 4, 1, lambda row: row.link, text, "whether a guest may send and receive there", falls=False),
    Column("rx", "rx/s", 5, 0, lambda row: row.rx_rate, number, "frames a second from its guest"),
    Column("rxbit", "rxbit/s", 7, 3, lambda row: row.rx_bits, number, "bits a second of these"),
    Column("tx", "tx/s", 5, 0, lambda row: row.tx_rate, number, "frames a second towards its guest"),
    Column("txbit", "txbit/s", 7, 4, lambda row: row.tx_bits, number, "bits a second of these"),
    Column("drop", "drop/s", 6, 2, lambda row: row.drop_rate, number, "frames a second that went no further"),
    Column("notif", "notif/s", 7, 8, lambda row: row.call_rate, number, "notifications of its driver a second"),
    Column("kick", "kick/s", 6, 12, lambda row: row.kick_rate, number, "kicks a second that woke a worker"),
    Column(
        "bufs", "bufs", 4, 6, lambda row: row.free, percent,
        "how full of buffers its receiveq is; bad: its driver broke a ring", falls=False,
    ),
    Column("sendq", "sendq", 5, 7, lambda row: row.queued, percent, "how full of frames its transmitq is"),
    Column("starv", "starv", 5, 5, lambda row: row.starved, percent, "share of time in which frames found no buffers"),
    Column("drops", "drops", 6, 9, lambda row: row.dropped, number, "frames in all that went no further"),
    Column("rxall", "rx", 6, 10, lambda row: row.rx_frames, number, "frames in all from its guest"),
    Column("txall", "tx", 6, 10, lambda row: row.tx_frames, number, "frames in all towards its guest"),
)  # fmt: skip
NAMED = {column.name: column for column in COLUMNS}


def gap(width: int) -> int:
    """Blanks between two columns of a terminal of this width."""
    return 1 if width < 100 else 2


def fitting(width: int) -> tuple[Column, ...]:
    """Those for which there is room, beside the name, in their order."""
    left, chosen = width, set()
    for column in sorted(COLUMNS, key=lambda column: column.rank):
        left -= column.width + gap(width)
        if left + gap(width) < 0:
            break
        chosen.add(column.name)
    return tuple(column for column in COLUMNS if column.name in chosen)


def name_width(columns: tuple[Column, ...], width: int, longest: int) -> int:
    """Of the column of names: what the others leave, and no more than the longest name needs."""
    others = sum(column.width + gap(width) for column in columns if column.name != "port")
    return max(1, min(width - others, max(LEAST_NAME, longest)))
