"""What whoever looks at `fastvhost top` chose: order, filter, part of the list, pause. Keys change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastvhost.cli.live.columns import NAMED, Column
from fastvhost.cli.live.rows import PortRow

LEAST_EVERY, MOST_EVERY = 0.1, 3600.0
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between readings that + and - go through."""
NUMBER = "number"
MOST_FILTER = 64


@dataclass(slots=True)
class Choice:
    """sort: the name of a column; NUMBER: the order of the ports' numbers."""

    sort: str = NUMBER
    reverse: bool = False
    filter: str = ""
    every: float = 1.0
    """Seconds between readings."""
    hide_idle: bool = False
    paused: bool = False
    help: bool = False
    typing: bool = False
    """Keys go into the filter."""
    ended: bool = False
    redraw: bool = False
    """All of the screen is to be written again."""
    offset: int = 0
    """The row that is shown first."""
    page: int = 1
    """Rows that have room, as drawn last."""
    columns: tuple[Column, ...] = field(default_factory=lambda: tuple(NAMED.values()))
    """As drawn last."""

    def chosen(self, rows: Sequence[PortRow]) -> list[PortRow]:
        """The rows that are wanted, in their order."""
        wanted = self.filter.casefold().split()
        found = [
            row
            for row in rows
            if not (self.hide_idle and row.idle)
            and all(word in f"{row.name} {row.kind} {row.link}".casefold() for word in wanted)
        ]
        found.sort(key=lambda row: row.number, reverse=self.reverse)
        if column := NAMED.get(self.sort):
            known = [row for row in found if column.value(row) is not None]
            # Equal ones stay in the order of their numbers; what is not known stays below.
            known.sort(key=column.order, reverse=self.reverse)
            found = known + [row for row in found if column.value(row) is None]
        return found

    def window(self, rows: int, page: int) -> range:
        """Which of so many rows are shown where a page of them has room."""
        self.page = max(1, page)
        self.offset = max(0, min(self.offset, rows - self.page))
        return range(self.offset, min(rows, self.offset + self.page))

    def press(self, key: str) -> None:
        """A key, by its name or its character. See keys."""
        if self.help:
            self.help = False
            self.ended = key in ("q", "Q")
        elif self.typing:
            self._type(key)
        elif action := ACTIONS.get(key):
            action(self)

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self.typing = False
            self.filter = self.filter if key == "enter" else ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif key == "clear":
            self.filter = ""
        elif len(key) == 1 and key.isprintable() and len(self.filter) < MOST_FILTER:
            self.filter += key
        else:
            action = ACTIONS.get(key)
            if action and key in SCROLLING:
                action(self)
            return
        self.offset = 0

    def sort_beside(self, step: int) -> None:
        """Sort by the column to the right (1) or to the left (-1) of the one that is sorted by."""
        names = [NUMBER, *(column.name for column in self.columns)]
        at = names.index(self.sort) if self.sort in names else 0
        self.sort, self.reverse, self.offset = names[(at + step) % len(names)], False, 0

    def sort_by_number(self) -> None:
        self.sort, self.reverse, self.offset = NUMBER, False, 0

    def turn_round(self) -> None:
        self.reverse, self.offset = not self.reverse, 0

    def scroll(self, rows: int) -> None:
        """Down, or up where it is below 0. window() keeps it within the list."""
        self.offset = max(0, self.offset + rows)

    def change_every(self, step: int) -> None:
        """The next longer (1) or shorter (-1) time between readings."""
        others = [one for one in STEPS if (one > self.every if step > 0 else one < self.every)]
        if others:
            self.every = others[0] if step > 0 else others[-1]

    def clear_filter(self) -> None:
        self.filter, self.offset = "", 0

    def switch(self, what: str) -> None:
        """Of help, typing, paused and hide_idle the one that was not so, and back."""
        setattr(self, what, not getattr(self, what))


FAR = 1 << 30
SCROLLING: dict[str, Callable[[Choice], None]] = {
    "down": lambda choice: choice.scroll(1),
    "up": lambda choice: choice.scroll(-1),
    "page down": lambda choice: choice.scroll(choice.page),
    "page up": lambda choice: choice.scroll(-choice.page),
    "home": lambda choice: choice.scroll(-FAR),
    "end": lambda choice: choice.scroll(FAR),
}
ACTIONS: dict[str, Callable[[Choice], None]] = {
    **SCROLLING,
    "j": SCROLLING["down"],
    "k": SCROLLING["up"],
    "g": SCROLLING["home"],
    "G": SCROLLING["end"],
    "right": lambda choice: choice.sort_beside(1),
    ">": lambda choice: choice.sort_beside(1),
    "left": lambda choice: choice.sort_beside(-1),
    "<": lambda choice: choice.sort_beside(-1),
    "n": Choice.sort_by_number,
    "r": Choice.turn_round,
    "/": lambda choice: choice.switch("typing"),
    "escape": Choice.clear_filter,
    "i": lambda choice: choice.switch("hide_idle"),
    " ": lambda choice: choice.switch("paused"),
    "p": lambda choice: choice.switch("paused"),
    "+": lambda choice: choice.change_every(1),
    "-": lambda choice: choice.change_every(-1),
    "h": lambda choice: choice.switch("help"),
    "?": lambda choice: choice.switch("help"),
    "redraw": lambda choice: setattr(choice, "redraw", True),
    "q": lambda choice: setattr(choice, "ended", True),
    "Q": lambda choice: setattr(choice, "ended", True),
}
