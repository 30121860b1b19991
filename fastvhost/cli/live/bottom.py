"""The last line of `fastvhost top`, and its page of help."""

from __future__ import annotations

from rich.text import Text

from fastvhost.cli.live.choice import NUMBER, Choice
from fastvhost.cli.live.columns import COLUMNS
from fastvhost.cli.output import printable

KEYS = (
    ("q", "quit"), ("h", "help"), ("< >", "sort"), ("/", "filter"), ("space", "pause"), ("i", "idle"), ("r", "reverse"),
)  # fmt: skip
"""In the order in which there is to be room for them."""
HELP = (
    ("< > or arrows", "sort by the column to the left, to the right"),
    ("n   r", "sort by the ports' numbers; turn the order round"),
    ("/   Esc", "filter by words of name, kind and link; show all"),
    ("i", "hide ports where nothing moves, and show them again"),
    ("up down PgUp PgDn Home End", "scroll; also k j g G"),
    ("space   + -", "pause; more or less time between readings"),
    ("q   ^L   ^Z", "quit; draw anew; back to the shell until fg"),
)


def last_line(choice: Choice, rows: int, ports: int, width: int) -> Text:
    """What is typed, or what is shown and by which keys it changes."""
    if choice.typing:
        typed = printable(choice.filter)
        return Text.assemble(("filter: ", "bold"), typed, ("_", "blink"), ("   Enter keeps it, Esc ends it", "dim"))
    first = choice.offset + 1 if rows else 0
    last = min(rows, choice.offset + choice.page)
    order = "" if choice.sort == NUMBER else f" by {choice.sort}"
    state = [f"{first}-{last} of {rows}{order}{' reversed' if choice.reverse else ''}"]
    if choice.filter:
        state.append(f"filter '{printable(choice.filter)}'")
    if choice.hide_idle:
        state.append(f"{ports - rows} hidden" if not choice.filter else "idle hidden")
    line = Text(", ".join(state), style="bold" if choice.filter or choice.hide_idle else "")
    keys = Text()
    for key, meaning in KEYS:
        one = Text.assemble("  ", (key, "bold cyan"), f" {meaning}")
        if line.cell_len + keys.cell_len + one.cell_len <= width:
            keys.append_text(one)
    line.append(" " * (width - line.cell_len - keys.cell_len))
    return line.append_text(keys)


def why_none(choice: Choice, ports: int) -> str:
    """Why the list is empty."""
    if not ports:
        return "this fwd has none"
    filtered = f"none of {ports} has '{printable(choice.filter)}' (Esc shows all)" if choice.filter else ""
    idle = "nothing moves at any of them (i shows them)" if choice.hide_idle else ""
    return ", or ".join(filter(None, (filtered, idle)))


def help_page(height: int) -> list[Text]:
    """Keys and columns, in 80 columns and 24 lines."""
    texts = [Text("fastvhost top: rx is from a port's guest, tx towards it. Any key goes back.", style="bold"), Text()]
    texts += [Text.assemble((f"{keys:27}", "bold cyan"), meaning) for keys, meaning in HELP]
    texts.append(Text())
    explained = [column for column in COLUMNS if column.name not in ("port", "kind", "rxall", "txall")]
    titles = [(column.title, column.meaning) for column in explained]
    titles.append(("rx  tx", "frames in all from its guest, and towards it"))
    texts += [Text.assemble((f"{title:9}", "bold"), meaning) for title, meaning in titles]
    return texts[:height]


