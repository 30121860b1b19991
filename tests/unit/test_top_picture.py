"""What `fastvhost top` looks like, in every size of a terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastvhost.cli.live.choice import Choice
from fastvhost.cli.live.drops import RecentDrop
from fastvhost.cli.live.picture import Scene, duration, lines
from fastvhost.cli.live.rows import DropRow, Reading, WorkerRow
from tests.unit.test_top_choice import row

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def plain(picture: list[str]) -> list[str]:
    return [COLOURS.sub("", line).rstrip() for line in picture]


def scene(ports: int = 4, drops: int = 0, workers: int = 1, choice: Choice | None = None, **more: Any) -> Scene:
    figures = {"rx_rate": 3.21e6, "rx_bits": 1.6e9, "drop_rate": 12.0, "starved": 0.5, "free": 0.03}
    rows = tuple(row(n, f"vm-{n}", link="down" if n % 4 else "up", **figures) for n in range(ports))
    busy = tuple(WorkerRow(f"worker{n}", n if n else None, n, n / 100, 1.0, 999_999 * (n == 3)) for n in range(workers))
    dropped = [RecentDrop(DropRow(f"vm-{n}", "towards", "no_receive_buffers", 12.0, 9_999_999), 3.0 if n else None)
               for n in range(drops)]  # fmt: skip
    reading = Reading("0.1.0", 93784.0, 1.0, rows, busy, ())
    return Scene(reading, dropped, choice or Choice(), "/run/fastvhost/fwd-4711.sock", **more)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)


@pytest.mark.parametrize("width", [1, 2, 9, 20, 40, 79, 80, 81, 120, 200])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 10, 24, 50])
def test_no_line_is_longer_than_the_terminal_and_there_are_as_many_as_it_has(width: int, height: int) -> None:
    for made in (scene(), scene(ports=100, drops=9, workers=17), scene(ports=0, workers=0, trouble="no answer " * 30)):
        for choice in (Choice(), Choice(help=True), Choice(typing=True, filter="vm " * 20), Choice(hide_idle=True)):
            picture = lines(Scene(made.reading, made.drops, choice, made.source, made.trouble), width, height)
            assert len(picture) == height
            assert max(len(line) for line in plain(picture)) <= width
            assert not any("\n" in line for line in picture)


def test_in_80_columns_a_port_has_all_its_rates_rings_and_starvation() -> None:
    picture = plain(lines(scene(ports=1), 80, 24))
    assert picture[0].split()[:2] == ["fwd-4711.sock", "0.1.0"]
    assert "up 1d 02:03  1 of 1 ports up" in picture[0]
    assert picture[3] == "port         link  rx/s rxbit/s  tx/s txbit/s drop/s notif/s bufs sendq starv"
    assert picture[4] == "vm-0         up   3.21M   1.60G     0       0     12       0   3%     -   50%"
    assert picture[-1].startswith("1-1 of 1 ")
    assert picture[-1].endswith("r reverse")


def test_a_wide_terminal_shows_all_columns_and_the_whole_path() -> None:
    picture = plain(lines(scene(), 200, 50))
    assert picture[0].startswith("/run/fastvhost/fwd-4711.sock  ")
    assert picture[3].split()[-3:] == ["drops", "rx", "tx"]


def test_a_long_name_is_cut_and_told_whole_where_there_is_room() -> None:
    ports = (row(0, "n" * 64), row(1, "short"))
    made = scene()
    reading = Reading("0.1.0", 1.0, 1.0, ports, (), ())
    narrow, wide = (plain(lines(Scene(reading, made.drops, Choice(), "x"), width, 24)) for width in (80, 200))
    assert narrow[3].startswith("n" * 14 + "~ up ")
    assert wide[3].startswith("n" * 64 + "  ")


def test_columns_stay_where_they_are_while_a_filter_is_typed() -> None:
    made = scene()
    reading = Reading("0.1.0", 1.0, 1.0, (row(0, "a" * 14), row(1, "b")), (), ())
    heads = {plain(lines(Scene(reading, (), Choice(filter=text), made.source), 80, 24))[2] for text in ("", "b", "zz")}
    assert len(heads) == 1


def test_a_page_ends_where_drops_begin_and_scrolls_by_what_it_shows() -> None:
    choice = Choice()
    picture = plain(lines(scene(ports=100, drops=9, choice=choice), 80, 24))
    assert [line.split()[0] for line in picture[4:4 + choice.page]] == [f"vm-{n}" for n in range(choice.page)]
    assert picture[4 + choice.page] == "drop/s  in all  frames that went no further"
    assert picture[5 + choice.page] == "    12   10.0M  towards vm-0: no_receive_buffers"
    assert picture[6 + choice.page] == "     0   10.0M  towards vm-1: no_receive_buffers, ended 3 s ago"
    assert picture[-2].strip() == "5 more"
    assert picture[-1].startswith(f"1-{choice.page} of 100")
    choice.press("end")
    picture = plain(lines(scene(ports=100, drops=9, choice=choice), 80, 24))
    assert picture[3 + choice.page].startswith("vm-99 ")
    assert picture[-1].startswith(f"{101 - choice.page}-100 of 100")


def test_workers_stand_beside_each_other_and_the_busiest_are_shown_where_not_all_have_room() -> None:
    few = plain(lines(scene(workers=2), 80, 24))
    assert re.fullmatch(r"worker0 any core   0% \[ {7}\] {8}worker1 core 1     1% \[ {7}\]", few[2])
    many = plain(lines(scene(workers=64), 80, 24))
    assert "worker61 core 61   61% [||||   ]        worker62 core 62   62% [||||   ]" in many
    assert "worker63 core 63   63% [||||   ]        57 more, less busy" in many
    assert not any("worker1 " in line for line in many)


def test_nothing_to_show_is_explained() -> None:
    assert "this fwd has none" in "\n".join(plain(lines(scene(ports=0), 80, 24)))
    filtered = "\n".join(plain(lines(scene(choice=Choice(filter="zz")), 80, 24)))
    assert "none of 4 has 'zz' (Esc shows all)" in filtered


def test_a_fwd_that_has_gone_is_said_without_the_path_that_the_title_has() -> None:
    lost = "no answer for 3 s, still trying: /run/fastvhost/fwd-4711.sock: Connection refused"
    picture = plain(lines(scene(trouble=lost), 80, 24))
    assert picture[1] == "no answer for 3 s, still trying: Connection refused"
    assert picture[4].startswith("vm-0 ")


def test_a_pause_is_plain_to_see() -> None:
    assert "PAUSED" in plain(lines(scene(choice=Choice(paused=True)), 80, 24))[0]


def test_the_help_fits_the_smallest_usual_terminal() -> None:
    narrow, wide = (plain(lines(scene(choice=Choice(help=True)), width, 24)) for width in (80, 300))
    assert narrow == wide
    assert any(line.startswith("rx  tx ") for line in narrow)


def test_no_color_leaves_no_colour_and_keeps_what_is_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[1-7]m")
    assert colour.search("".join(lines(scene(drops=2), 80, 24)))
    monkeypatch.setenv("NO_COLOR", "1")
    picture = "".join(lines(scene(drops=2), 80, 24))
    assert not colour.search(picture)
    assert "\x1b[7m" in picture


def test_a_text_that_was_typed_or_given_cannot_steer_the_terminal() -> None:
    choice = Choice(filter="\x1b[2J\x07")
    for made in (scene(choice=choice), scene(choice=choice, trouble="\x1b]0;x\x07")):
        picture = "".join(lines(made, 80, 24))
        assert COLOURS.sub("", picture).isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0:00:00"), (3723, "1:02:03"), (86399, "23:59:59"), (93784, "1d 02:03")]
)
def test_a_time_is_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
