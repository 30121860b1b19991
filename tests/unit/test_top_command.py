"""`fastvhost top` without a fwd: what it refuses, and what --once prints."""

from __future__ import annotations

import io
import json
import sys

import pytest

from fastvhost.cli import main as entry
from fastvhost.cli.live import once
from fastvhost.cli.live.columns import COLUMNS
from fastvhost.cli.live.rows import DropRow, Reading, WorkerRow
from tests.unit.test_top_choice import row

NOWHERE = "no/such/control.sock"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "standard input is no terminal: keys and a screen need a terminal; fastvhost top --once prints"),
        (("--json",), 2, "--json is for --once"),
        (("--every", "1us", "--once"), 2, "every"),
        (("--sort", "colour", "--once"), 2, "see fastvhost top --help"),
        (("--once",), 1, "no/such/control.sock: No such file or directory; is fastvhost fwd running there?"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert entry.main(["top", *words, "--control", NOWHERE]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


READING = Reading(
    "0.1.0", 12.5, 1.0,
    (
        row(0, "a", rx_rate=1234567.8, free=0.25, starved=0.004, rx_frames=12345678901),
        row(1, "b", kind="tap", rx_rate=None),
    ),
    (WorkerRow("worker0", None, 3, 0.5, 12.25, 7),),
    (DropRow("a", "from", "storm", 12.0, 13), DropRow("b", "towards", "link_down", None, 1)),
)  # fmt: skip


def test_once_has_whole_numbers_without_prefixes_and_no_cell_that_is_empty() -> None:
    ports, workers, drops = (text.splitlines() for text in once.as_text(READING, READING.ports).split("\n\n"))
    titles = [column.title for column in COLUMNS]
    assert ports[0].split() == titles
    a = dict(zip(titles, ports[1].split(), strict=True))
    assert (a["rx/s"], a["rx"], a["bufs"], a["starv"], a["sendq"]) == ("1234568", "12345678901", "25%", "1%", "-")
    assert dict(zip(titles, ports[2].split(), strict=True))["rx/s"] == "-"
    assert [line.split() for line in workers] == [
        ["worker", "core", "busy", "sleep/s", "waiting"], ["worker0", "-", "50%", "12", "7"],
    ]  # fmt: skip
    assert [line.split() for line in drops[1:]] == [
        ["from", "a", "storm", "12", "13"], ["towards", "b", "link_down", "-", "1"],
    ]  # fmt: skip


def test_once_has_the_drops_of_the_ports_that_are_shown_and_the_heads_of_tables_without_rows() -> None:
    ports, workers, drops = once.as_text(READING, ()).split("\n\n")
    assert [len(text.splitlines()) for text in (ports, workers, drops)] == [1, 2, 1]


def test_as_json_what_is_not_known_is_null_and_a_rate_is_exact() -> None:
    told = json.loads(once.as_json(READING, READING.ports[:1]))
    assert told["ports"][0]["rx_rate"] == 1234567.8
    assert told["ports"][0]["queued"] is None
    assert [drop["port"] for drop in told["drops"]] == ["a"]
    assert told["workers"] == [
        {"name": "worker0", "core": None, "last_core": 3, "busy": 0.5, "sleep_rate": 12.25, "waiting": 7}
    ]
