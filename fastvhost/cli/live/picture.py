"""What `fastvhost top` looks like: a reading and a choice become lines of a terminal, none longer than it is wide."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fastvhost.cli.live import bottom
from fastvhost.cli.live.choice import Choice
from fastvhost.cli.live.columns import Column, fitting, gap, name_width, number, percent
from fastvhost.cli.live.drops import RecentDrop
from fastvhost.cli.live.rows import PortRow, Reading, WorkerRow
from fastvhost.cli.output import printable

BAR = 7
WORKER_REST = len("  100% [] 1.00Mw")
WORKER_GAP = 1
WIDE = 120
"""Columns from which on the whole path of the control socket has room."""
HEAD = "reverse"
BUSY, VERY_BUSY = 0.7, 0.9
FEW = 0.1
"""Share of a receiveq with buffers below which it is about to starve."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is drawn."""

    reading: Reading
    drops: Sequence[RecentDrop]
    choice: Choice
    source: str
    """The control socket that is asked."""
    trouble: str = ""
    """Why there is no newer reading; empty: there is none to be had yet."""


def console(width: int) -> Console:
    """Renders for a terminal of so many columns; NO_COLOR is honoured."""
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=24, highlight=False, markup=False, emoji=False,
        no_color=bool(os.environ.get("NO_COLOR")), legacy_windows=False,
    )  # fmt: skip


def lines(scene: Scene, width: int, height: int) -> list[str]:
    """Exactly so many lines, with the sequences that colour them."""
    texts = bottom.help_page(height) if scene.choice.help else _texts(scene, width, height)
    return render(texts, width, height)


def render(texts: Sequence[Text], width: int, height: int) -> list[str]:
    """Cut to the size of a terminal."""
    made = console(width)
    found = []
    for text in [*texts, *[Text()] * (height - len(texts))][:height]:
        text.truncate(width)
        with made.capture() as captured:
            made.print(text, no_wrap=True, overflow="crop", end="")
        found.append(captured.get())
    return found


def _texts(scene: Scene, width: int, height: int) -> list[Text]:
    choice = scene.choice
    rows = choice.chosen(scene.reading.ports)
    top = [_title(scene, width), _trouble(scene) if scene.trouble else _sums(scene)]
    room = height - len(top) - 2  # the head of the ports, and the last line
    drops = _drops(scene.drops, min(room // 3, 1 + len(scene.drops))) if room >= 6 else []
    workers = _workers(scene.reading.workers, width, max(1, room // 5)) if room >= 4 else []
    page = room - len(drops) - len(workers)
    shown = [rows[at] for at in choice.window(len(rows), max(1, page))]
    choice.columns = fitting(width)
    name = name_width(choice.columns, width, max((len(row.name) for row in scene.reading.ports), default=0))
    ports = [_head(choice, name, width), *(_port(row, choice.columns, name, width) for row in shown)]
    if not rows:
        ports.append(Text(f"  no port is shown: {bottom.why_none(choice, len(scene.reading.ports))}", style="yellow"))
    if scene.trouble:
        for line in ports[1:]:
            line.stylize("dim")
    free = page + 1 - len(ports)  # lines that no port needs
    below = [*[Text()] * min(free, 1), *drops, *[Text()] * (free - 1)]
    last = bottom.last_line(choice, len(rows), len(scene.reading.ports), width)
    texts = [*top, *workers, *ports, *below]
    return [*texts[: height - 1], last] if height > 1 else texts[:1]


def _title(scene: Scene, width: int) -> Text:
    reading = scene.reading
    up = sum(port.link == "up" for port in reading.ports)
    source = scene.source if width >= WIDE else Path(scene.source).name
    told = f"{reading.version}  up {duration(reading.uptime)}  {up} of {len(reading.ports)} ports up"
    left = Text.assemble((printable(source), "bold"), f"  {told}")
    clock = time.strftime("%H:%M:%S")
    right = Text(f"every {scene.choice.every:g} s  {clock}")
    if scene.choice.paused:
        right = Text.assemble(("PAUSED", "bold reverse"), "  ", clock)
    left.append(" " * max(2, width - left.cell_len - right.cell_len))
    left.append_text(right)
    return left


def _trouble(scene: Scene) -> Text:
    """Why figures are old. The title has the socket's name: a reason begins with it."""
    return Text(printable(scene.trouble.replace(f"{scene.source}: ", "")), style="bold red")


def _sums(scene: Scene) -> Text:
    def rate(figure: str) -> str:
        return number(scene.reading.sum(figure))

    dropping = scene.reading.sum("drop_rate")
    return Text.assemble(
        "all ports  rx ", (f"{rate('rx_rate')}/s {rate('rx_bits')}bit/s", "bold"),
        "  tx ", (f"{rate('tx_rate')}/s {rate('tx_bits')}bit/s", "bold"),
        "  drop ", (f"{number(dropping)}/s", "bold red" if dropping else "bold"),
        f"  notif {rate('call_rate')}/s",
    )  # fmt: skip


def duration(seconds: float) -> str:
    """3d 04:05, 4:05:06."""
    days, rest = divmod(int(seconds), 86400)
    hours, minutes, rest = rest // 3600, rest // 60 % 60, rest % 60
    return f"{days}d {hours:02}:{minutes:02}" if days else f"{hours}:{minutes:02}:{rest:02}"


def _workers(workers: Sequence[WorkerRow], width: int, most: int) -> list[Text]:
    """Beside each other as far as there is room; where there is not enough, the busiest ones."""
    names = max((len(one.name) for one in workers), default=0)
    places = max((len(_place(one)) for one in workers), default=0)
    size = names + places + BAR + WORKER_REST
    per_line = max(1, (width + WORKER_GAP) // (size + WORKER_GAP))
    shown = list(workers)
    if len(shown) > per_line * most:
        shown = sorted(shown, key=lambda one: -(one.busy or 0.0))[: per_line * most - 1]
        shown = [one for one in workers if one in shown]
    cells = [_worker(one, names, places) for one in shown]
    if len(shown) < len(workers):
        cells.append(Text(f"{len(workers) - len(shown)} more, less busy"))
    found = []
    for start in range(0, len(cells), per_line):
        line = Text()
        for at, cell in enumerate(cells[start : start + per_line]):
            line.append(" " * (at * (size + WORKER_GAP) - line.cell_len))
            line.append_text(cell)
        found.append(line)
    return found


def _place(worker: WorkerRow) -> str:
    return "any core" if worker.core is None else f"core {worker.core}"


def _worker(worker: WorkerRow, names: int, places: int) -> Text:
    busy = worker.busy or 0.0
    style = "red" if busy >= VERY_BUSY else "yellow" if busy >= BUSY else "green"
    full = round(busy * BAR)
    text = Text.assemble(
        f"{worker.name:{names}} {_place(worker):{places}} ", (f"{percent(worker.busy):>4}", "bold"), " [",
        ("|" * full, style), " " * (BAR - full), "]",
    )  # fmt: skip
    if worker.waiting:
        text.append(f" {number(worker.waiting)}w", "yellow")
    return text


def _head(choice: Choice, name: int, width: int) -> Text:
    line = Text(style=HEAD)
    for column in choice.columns:
        sorted_by = column.name == choice.sort
        title = column.title
        cell = _cell(title, column, name, width, first=column is choice.columns[0])
        at = line.cell_len + len(cell) - len(cell.lstrip())
        line.append(cell)
        if sorted_by:
            line.stylize("bold not reverse", at, at + len(title))
    line.append(" " * max(0, width - line.cell_len))
    return line


def _port(row: PortRow, columns: Sequence[Column], name: int, width: int) -> Text:
    line = Text(style="dim" if row.link != "up" else "")
    for column in columns:
        text = column.cell(row)
        style = "dim" if text in ("0", "0%") else _style(column.name, row)
        line.append(_cell(text, column, name, width, first=column is columns[0]), style)
    return line


def _cell(text: str, column: Column, name: int, width: int, *, first: bool) -> str:
    size = name if column.name == "port" else column.width
    if len(text) > size:
        text = text[: size - 1] + "~"
    blanks = "" if first else " " * gap(width)
    return blanks + (text.ljust(size) if column.name in ("port", "kind", "link") else text.rjust(size))


def _style(column: str, row: PortRow) -> str:
    if column == "drop" and row.drop_rate:
        return "bold red"
    if column == "starv" and row.starved:
        return "bold red" if row.starved >= FEW else "yellow"
    if column == "bufs" and (row.broken or (row.free is not None and row.free < FEW and row.link == "up")):
        return "bold red" if row.broken else "yellow"
    if column == "link":
        return "green" if row.link == "up" else "red"
    return ""


def _drops(drops: Sequence[RecentDrop], most: int) -> list[Text]:
    """One line of a head, and the drops that have room below it."""
    if not drops or most < 2:
        return []
    shown = drops[: most - 1]
    if len(shown) < len(drops):
        shown = shown[:-1] if len(shown) > 1 else shown
    found = [Text("drop/s  in all  frames that went no further", style="bold")]
    for one in shown:
        row = one.row
        now = one.ended is None
        ended = "" if now else f", ended {one.ended:.0f} s ago"
        rate = number(row.rate) if now else "0"
        text = f"{rate:>6}  {number(row.total):>6}  {row.side} {row.port}: {row.reason}{ended}"
        found.append(Text(text, style="red" if now else "dim"))
    if len(shown) < len(drops):
        found.append(Text(f"{'':16}{len(drops) - len(shown)} more", style="dim"))
    return found[:most]
