"""What keys do to the list that `fastvhost top` shows: order, filter, part of it, pause."""

from __future__ import annotations

import pytest

from fastvhost.cli.live.choice import FAR, MOST_EVERY, NUMBER, STEPS, Choice
from fastvhost.cli.live.columns import COLUMNS, NAMED, fitting, name_width, number, percent
from fastvhost.cli.live.keys import Keys
from fastvhost.cli.live.rows import PortRow


def row(number: int, name: str = "", **more: object) -> PortRow:
    figures = {
        "kind": "vhost-user", "link": "up", "rx_frames": 0, "tx_frames": 0, "dropped": 0, "rx_rate": 0.0,
        "rx_bits": 0.0, "tx_rate": 0.0, "tx_bits": 0.0, "drop_rate": 0.0, "call_rate": 0.0, "kick_rate": None,
        "free": None, "queued": None, "starved": None, "broken": 0,
    }  # fmt: skip
    return PortRow(number, name or f"p{number}", **{**figures, **more})  # type: ignore[arg-type]


def numbers(choice: Choice, rows: list[PortRow]) -> list[int]:
    return [one.number for one in choice.chosen(rows)]


def pressed(choice: Choice, *keys: str) -> Choice:
    for key in keys:
        choice.press(key)
    return choice


# Order


def test_the_highest_rate_and_the_first_name_come_first_and_equal_ones_by_number() -> None:
    rows = [row(0, "b", rx_rate=1.0), row(1, "a", rx_rate=9.0), row(2, "c", rx_rate=1.0)]
    assert numbers(Choice("rx"), rows) == [1, 0, 2]
    assert numbers(Choice("port"), rows) == [1, 0, 2]
    assert numbers(Choice("rx", reverse=True), rows) == [2, 0, 1]
    assert numbers(Choice(), rows[::-1]) == [0, 1, 2]
    assert numbers(Choice(reverse=True), rows) == [2, 1, 0]


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_not_known_stays_below_in_either_order(reverse: bool) -> None:
    rows = [row(0), row(1, free=0.5), row(2, free=0.1)]
    assert numbers(Choice("bufs", reverse=reverse), rows)[-1] == 0


def test_a_broken_ring_comes_before_one_without_buffers() -> None:
    rows = [row(0, free=1.0), row(1, free=0.0), row(2, free=1.0, broken=1)]
    assert numbers(Choice("bufs"), rows) == [2, 1, 0]


def test_arrows_go_through_the_columns_that_are_shown_and_round() -> None:
    choice = Choice(columns=tuple(NAMED[name] for name in ("port", "link", "rx")))
    seen = [pressed(choice, "right").sort for _ in range(5)]
    assert seen == ["port", "link", "rx", NUMBER, "port"]
    assert pressed(choice, "<", "left").sort == "rx"
    assert pressed(Choice("kick", columns=choice.columns), ">").sort == "port"
    assert pressed(choice, "n").sort == NUMBER


def test_another_order_begins_at_the_top_and_is_not_turned_round() -> None:
    choice = pressed(Choice(page=10), "r", "down", ">")
    assert (choice.reverse, choice.offset) == (False, 0)


# Filter


def test_a_filter_has_words_of_name_kind_and_link_in_any_case() -> None:
    rows = [row(0, "Web-1"), row(1, "web-2", link="down"), row(2, "db", kind="tap")]
    found = {"web": [0, 1], "WEB down": [1], "tap": [2], "": [0, 1, 2], "  ": [0, 1, 2], "x": []}
    for text, wanted in found.items():
        assert numbers(Choice(filter=text), rows) == wanted, text


def test_keys_go_into_a_filter_while_it_is_typed_and_it_holds_at_once() -> None:
    choice = pressed(Choice(offset=3), "/", *"qp 1")
    assert (choice.filter, choice.typing, choice.ended, choice.paused, choice.offset) == ("qp 1", True, False, False, 0)
    pressed(choice, "backspace", "backspace", "enter", "q")
    assert (choice.filter, choice.typing, choice.ended) == ("qp", False, True)
    assert pressed(Choice(filter="x"), "/", "clear", "y", "enter").filter == "y"


def test_escape_ends_a_filter_and_its_list_scrolls_meanwhile() -> None:
    choice = pressed(Choice(), "/", "w", "page down", "left")
    assert (choice.filter, choice.sort, choice.offset) == ("w", NUMBER, 1)
    assert pressed(choice, "escape").filter == ""
    assert pressed(Choice(filter="x"), "escape").filter == ""


def test_a_filter_has_an_end() -> None:
    assert len(pressed(Choice(), "/", *"x" * 1000).filter) == 64


def test_ports_where_nothing_moves_are_hidden_but_not_one_that_drops() -> None:
    rows = [row(0), row(1, drop_rate=0.5), row(2, tx_rate=3.0), row(3, rx_rate=None, tx_rate=None, drop_rate=None)]
    assert numbers(pressed(Choice(), "i"), rows) == [1, 2]
    assert numbers(pressed(Choice(), "i", "i"), rows) == [0, 1, 2, 3]


# Part of the list


def test_a_list_scrolls_to_both_ends_and_not_beyond() -> None:
    choice = Choice()
    assert choice.window(1024, 20) == range(20)
    wanted = {
        "up": 0, "down": 1, "page down": 21, "k": 20, "end": 1004, "j": 1004, "page up": 984, "home": 0, "G": 1004,
        "g": 0,
    }  # fmt: skip
    for key, first in wanted.items():
        assert choice.window(1024, 20).start == choice.offset
        assert pressed(choice, key).window(1024, 20).start == first, key


def test_a_list_that_became_shorter_than_where_one_looks_is_shown_to_its_end() -> None:
    choice = Choice(offset=FAR)
    assert choice.window(30, 20) == range(10, 30)
    assert choice.window(5, 20) == range(5)
    assert choice.window(0, 20) == range(0)


# The rest


def test_any_key_leaves_the_help_and_q_ends_it_all() -> None:
    assert pressed(Choice(), "h").help
    choice = pressed(Choice(), "?", "r")
    assert (choice.help, choice.reverse) == (False, False)
    assert pressed(Choice(), "h", "q").ended


def test_the_time_between_readings_stays_within_bounds() -> None:
    assert pressed(Choice(every=1.0), "+").every == 2
    assert pressed(Choice(every=0.7), "-").every == 0.5
    assert pressed(Choice(), *"-" * 50).every == STEPS[0]
    assert pressed(Choice(), *"+" * 50).every == STEPS[-1]
    assert pressed(Choice(every=MOST_EVERY), "+").every == MOST_EVERY


def test_keys_without_a_meaning_do_nothing() -> None:
    assert pressed(Choice(), "x", "enter", "backspace", "é") == Choice()


# Columns


def test_the_wider_the_terminal_the_more_columns_and_a_narrow_one_keeps_the_rates() -> None:
    counts = [len(fitting(width)) for width in range(1, 300)]
    assert counts[39] >= 4
    assert counts[-1] == len(COLUMNS)
    names = [column.name for column in fitting(80)]
    assert names == ["port", "link", "rx", "rxbit", "tx", "txbit", "drop", "notif", "bufs", "sendq", "starv"]
    assert {"port", "rx", "tx"} <= {column.name for column in fitting(40)}


@pytest.mark.parametrize("width", [20, 40, 80, 99, 100, 132, 200])
def test_names_get_what_the_others_leave_and_no_more_than_they_need(width: int) -> None:
    columns = fitting(width)
    gap = 1 if width < 100 else 2
    others = sum(column.width + gap for column in columns if column.name != "port")
    assert others + name_width(columns, width, 64) <= width
    assert name_width(columns, 400, 5) == name_width(columns, 400, 12) == 12


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.02, "0.1"), (0.34, "0.3"), (9.96, "10"), (3, "3"), (999.6, "1.00k"), (3.2e9, "3.20G")],
)
def test_a_rate_that_is_not_nothing_does_not_look_so(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0, "0%"), (0.001, "1%"), (0.5, "50%"), (0.999, "99%"), (1.0, "100%")]
)
def test_a_share_is_all_or_nothing_only_where_it_is(value: float | None, text: str) -> None:
    assert percent(value) == text


# Keys


def test_sequences_become_keys_also_where_they_come_in_parts() -> None:
    keys = Keys()
    assert keys.feed(b"q\x1b[A\x1bOB\x1b[5~\x7f\r\x1bOP") == ["q", "up", "down", "page up", "backspace", "enter", "h"]
    assert [key for byte in b"\x1b[6~" for key in keys.feed(bytes([byte]))] == ["page down"]
    assert keys.feed("é".encode()[:1]) == []
    assert keys.feed("é".encode()[1:]) == ["é"]
    assert not keys.waits


def test_an_escape_is_a_key_once_nothing_follows_or_another_key_does() -> None:
    keys = Keys()
    assert (keys.feed(b"\x1b"), keys.waits, keys.end(), keys.waits) == ([], True, ["escape"], False)
    assert keys.feed(b"\x1bi") == ["escape", "i"]
    assert keys.feed(b"\x1b\x1b[A") == ["escape", "up"]
    assert (keys.feed(b"\x1b["), keys.end(), keys.feed(b"q")) == ([], [], ["q"])


def test_sequences_without_a_meaning_are_no_keys_and_endless_ones_are_dropped() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b[1;5A\x1b[200~q") == ["q"]
    keys.feed(b"\x1b[" + b"1" * 5000)
    assert not keys.waits
    assert keys.feed(b"q") == ["q"]
    assert keys.feed(b"\xff\xfe\x80q") == ["q"]
