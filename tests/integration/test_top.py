"""`fastvhost top` in a terminal beside a running fwd: what it shows, what its keys do, how it ends."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import wait_until
from fastvhost.cli.live.columns import COLUMNS
from tests.frontend import Guest
from tests.tmux import Tmux, tmux
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST, Forwarder, fastvhost, forwarder

FRAME = bytes(range(12)) + b"\x88\xb5" + bytes(600)
PORTS = ("a.sock", "b.sock", "c.sock", *(f"null:,name=spare-{n}" for n in range(30)))
OPTIONS = ("--idle", "interrupt", "--wire", "a:b")


@pytest.fixture(scope="module")
def fwd() -> Iterator[Forwarder]:
    """a sends to b, c sends to nobody. b's guest gives 16 buffers."""
    with forwarder(*OPTIONS, ports=PORTS, log_has="port c: ") as running, contextlib.ExitStack() as guests:
        a, b, c = (
            guests.enter_context(Guest.boot(running.directory / f"{name}.sock", receive_buffers=buffers))
            for name, buffers in (("a", 64), ("b", 16), ("c", 64))
        )
        ended = threading.Event()

        def send() -> None:
            while not ended.wait(0.05):
                for guest, frames in ((a, 8), (c, 2)):
                    guest.net.reclaim()
                    for _ in range(min(frames, guest.net.transmitq.free)):
                        guest.net.send(FRAME)
                    guest.kick()
                b.net.receive_all()

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield running
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def top(control: Path, *options: str, size: tuple[int, int] = (80, 24), **environment: str) -> Iterator[Tmux]:
    """A terminal in which it runs, with its first rates on the screen."""
    words = [*FASTVHOST, "top", "--every", "200ms", "--control", str(control), *options]
    with short_dir() as directory, tmux(directory, *size, **{**ENVIRONMENT, **environment}) as terminal:
        terminal.run(*words)
        yield terminal


def control(running: Forwarder) -> Path:
    return running.directory / "control.sock"


def rows(text: str) -> dict[str, dict[str, str]]:
    """The ports on the screen, each with its cells by their titles; none where it shows something else."""
    lines = [line.split() for line in text.split("\n")]
    head = next((cells for cells in lines if cells[:1] == ["port"] and "rx/s" in cells), [])
    ports = [dict(zip(head, cells, strict=True)) for cells in lines if head and len(cells) == len(head) != 0]
    return {port["port"]: port for port in ports if port["link"] in ("up", "down")}


def names(text: str) -> list[str]:
    return list(rows(text))


def moving(text: str) -> bool:
    """Whether a's frames have a rate."""
    return rate(text, "a") not in ("-", "0")


def rate(text: str, port: str) -> str:
    """What a port's guest sends a second, as it stands there."""
    return rows(text).get(port, {}).get("rx/s", "-")


def shell_is_back(text: str) -> bool:
    return re.search(r"^ended \d+$", text, re.MULTILINE) is not None and "rx/s" not in text


def test_a_screen_of_80_columns_tells_rates_drops_rings_and_workers_of_real_traffic(fwd: Forwarder) -> None:
    with top(control(fwd)) as terminal:
        text = terminal.wait("rates and a drop", lambda text: moving(text) and "from c: no_egress" in text)
        lines = terminal.lines()
        assert len(lines) == 24
        assert re.match(r"control\.sock  \d+\.\d+\.\d+  up 0:0\d:\d\d  33 of 33 ports up +every 0\.2 s  ", lines[0])
        assert re.match(r"all ports  rx [\d.]+k?/s [\d.]+[kM]bit/s  tx .* drop [\d.]+/s  notif ", lines[1])
        assert re.match(r"worker0 (core \d+|any core) +\d+% \[", lines[2])
        a, b, c = (rows(text)[name] for name in "abc")
        assert list(a)[-6:] == ["txbit/s", "drop/s", "notif/s", "bufs", "sendq", "starv"]
        assert c["drop/s"] not in ("-", "0")
        assert c["tx/s"] == "0"
        assert b["rx/s"] == "0"
        assert b["tx/s"] != "0"
        assert int(b["bufs"].rstrip("%")) <= 7
        assert names(text)[:4] == ["a", "b", "c", "spare-0"]
        assert lines[-1].endswith("r reverse")
        terminal.keys("q")
        terminal.wait("the shell", shell_is_back)
        assert "ended 0" in terminal.text()


def test_keys_sort_filter_scroll_pause_and_help(fwd: Forwarder) -> None:
    with top(control(fwd), "--sort", "port", "--reverse") as terminal:
        terminal.wait("names in reverse", lambda text: moving(text) is False and names(text)[:1] == ["spare-9"])
        terminal.keys("r")
        terminal.wait("names in order", lambda text: names(text)[:3] == ["a", "b", "c"])
        terminal.keys("End")
        terminal.wait("the end of the list", lambda text: names(text)[-1] == "spare-9")
        terminal.keys("Home", "Right", "Right")
        terminal.wait("the port that sends most first", lambda text: names(text)[:2] == ["a", "c"])
        terminal.keys("/")
        terminal.type("SPARE-2")
        terminal.wait("a filter that holds while it is typed", lambda text: set(names(text)) == SPARE_2)
        terminal.wait_for("filter: SPARE-2_")
        terminal.keys("Enter")
        terminal.wait_for("filter 'SPARE-2'")
        terminal.keys("Escape")
        terminal.wait("all of them", lambda text: names(text)[:2] == ["a", "c"])
        terminal.keys("i")
        terminal.wait("what moves", lambda text: sorted(names(text)) == ["a", "b", "c"])
        terminal.keys("h")
        terminal.wait_for("Any key goes back", "share of time in which frames found no buffers")
        terminal.keys("x", "n", "Space")
        terminal.wait_for("PAUSED")
        frozen = rows(terminal.wait("a screen that is whole", lambda text: text == terminal.text()))
        seen = fwd.stats()["ports"]["c"]["rx_frames"]
        wait_until("traffic goes on", 30, lambda: fwd.stats()["ports"]["c"]["rx_frames"] > seen + 30)
        assert rows(terminal.text()) == frozen
        terminal.keys("Space")
        terminal.wait("rates that move again", lambda text: "PAUSED" not in text and rows(text) != frozen)


SPARE_2 = {"spare-2", *(f"spare-{n}" for n in range(20, 30))}


def test_another_size_is_filled_at_once_and_no_line_is_wrapped(fwd: Forwarder) -> None:
    with top(control(fwd)) as terminal:
        terminal.wait("rates", moving)
        for width, height in ((132, 40), (60, 12), (30, 6), (80, 24), (200, 50)):
            terminal.resize(width, height)
            text = terminal.wait(f"{width}x{height}", functools.partial(fits, width, height))
        assert list(rows(text)["a"]) == [column.title for column in COLUMNS]
        assert len(names(text)) == len(PORTS)


def fits(width: int, height: int, text: str) -> bool:
    """Whether the first and the last line stand where they are to be, with one head of the list between."""
    lines = text.rstrip("\n").split("\n")
    return (
        len(lines) == height and "control.sock  " in lines[0] and lines[-1].startswith("1-")
        and max(map(len, lines)) <= width and sum(line.startswith("port ") for line in lines) == 1
    )  # fmt: skip


def test_ports_that_come_and_go_do_so_on_the_screen(fwd: Forwarder) -> None:
    with top(control(fwd), "--filter", "late") as terminal:
        terminal.wait_for("no port is shown: none of 33 has 'late'")
        change = lambda *words: fastvhost("port", *words, "--control", str(control(fwd))).returncode  # noqa: E731
        assert change("add", "null:,name=late-1") == 0
        terminal.wait("it came", lambda text: names(text) == ["late-1"])
        assert change("del", "late-1") == 0
        terminal.wait_for("no port is shown", "33 of 33 ports up")


def test_a_fwd_that_goes_is_missed_and_one_that_comes_back_is_followed_from_its_beginning() -> None:
    with short_dir() as directory:
        place = directory / "control.sock"
        options = (*OPTIONS[:2], "--control", str(place))
        first = forwarder(*options, ports=("null:,name=x", "null:,name=y"), log_has="control socket")
        with first as running, top(place) as terminal:
            terminal.wait("rates", lambda text: rate(text, "x") == "0")
            running.end()
            terminal.wait_for("no answer for ", "still trying: ", "x  ")
            with forwarder(*options, ports=("null:,name=x", "null:,name=z"), log_has="control socket"):
                text = terminal.wait("the other one", lambda text: rate(text, "z") == "0")
                assert "still trying" not in text
                assert names(text) == ["x", "z"]


# How it ends


def kill(terminal: Tmux, number: signal.Signals) -> None:
    """Send a signal to the program that its shell runs."""
    shell = terminal.format("#{pane_pid}")
    (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    os.kill(int(child), number)


BY_SIGNAL: dict[str, tuple[Callable[[Tmux], object], int]] = {
    "q": (lambda terminal: terminal.keys("q"), 0),
    "^C": (lambda terminal: terminal.keys("C-c"), 130),
    "SIGTERM": (lambda terminal: kill(terminal, signal.SIGTERM), 0),
    "SIGHUP": (lambda terminal: kill(terminal, signal.SIGHUP), 0),
    "SIGQUIT": (lambda terminal: terminal.keys("C-\\"), 0),
}


def test_however_it_ends_the_terminal_is_as_it_was(fwd: Forwarder) -> None:
    with short_dir() as directory, tmux(directory, **ENVIRONMENT) as terminal:
        before, usual = terminal.settings(), terminal.format(MODES)
        for how, (end, code) in BY_SIGNAL.items():
            terminal.run(*FASTVHOST, "top", "--control", str(control(fwd)))
            terminal.wait_for("rx/s", "q quit")
            assert terminal.settings() != before
            assert terminal.format(MODES) == "0 1 0" != usual
            end(terminal)
            terminal.wait(f"the shell after {how}", lambda text: shell_is_back(text) and f"ended {code}\n" in text)  # noqa: B023
            assert (terminal.settings(), terminal.format(MODES)) == (before, usual), how
            terminal.clear()


MODES = "#{cursor_flag} #{alternate_on} #{wrap_flag}"
"""Whether there is a cursor, whether a program has a screen of its own, whether lines that are too long go on below."""


def test_an_error_in_it_leaves_the_terminal_as_it_was_and_is_told(fwd: Forwarder) -> None:
    code = (
        "import sys; from fastvhost.cli.live import loop; from fastvhost.cli.main import main\n"
        "def lines(*_): raise ZeroDivisionError('a defect')\n"
        "loop.lines = lines; sys.exit(main())"
    )
    with short_dir() as directory, tmux(directory, **ENVIRONMENT) as terminal:
        before, usual = terminal.settings(), terminal.format(MODES)
        terminal.run(FASTVHOST[0], "-c", code, "top", "--control", str(control(fwd)))
        terminal.wait_for("ZeroDivisionError: a defect", "ended 1")
        assert (terminal.settings(), terminal.format(MODES)) == (before, usual)


def test_the_shell_gets_its_terminal_by_ctrl_z_and_fg_brings_it_back_and_ctrl_s_stops_nothing(fwd: Forwarder) -> None:
    with top(control(fwd)) as terminal:
        terminal.wait("rates", moving)
        terminal.keys("C-s", "Right")
        terminal.wait("a screen that ^S did not stop", lambda text: "by port" in text)
        terminal.keys("C-z")
        terminal.wait("the shell", lambda text: "Stopped" in text and "rx/s" not in text)
        assert terminal.format(MODES) == "1 0 1"
        terminal.type("fg")
        terminal.keys("Enter")
        terminal.wait("all of the screen", functools.partial(fits, 80, 24))
        terminal.keys("q")
        terminal.wait("the shell", lambda text: "rx/s" not in text)
        assert terminal.format(MODES) == "1 0 1"


# For scripts


def once(running: Forwarder, *options: str) -> str:
    """What --once prints."""
    done = fastvhost("top", "--once", *options, "--control", str(control(running)))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_once_prints_tables_that_a_script_can_read(fwd: Forwarder) -> None:
    ports, workers, drops = (
        [line.split() for line in table.splitlines()] for table in once(fwd, "--every", "300ms").split("\n\n")
    )
    assert ports[0] == [column.title for column in COLUMNS]
    assert [cells[0] for cells in ports[1:]] == [port.partition("name=")[2] or port[0] for port in PORTS]
    assert {len(cells) for cells in ports} == {len(COLUMNS)}
    a = dict(zip(ports[0], ports[1], strict=True))
    assert int(a["rx"]) > 0
    assert int(a["rx/s"]) >= 0
    assert a["rx"].isdecimal()
    assert workers[0] == ["worker", "core", "busy", "sleep/s", "waiting"]
    assert [cells[0] for cells in workers[1:]] == ["worker0"]
    assert drops[0] == ["dropped", "port", "reason", "drop/s", "drops"]
    assert ["from", "c", "no_egress"] in [cells[:3] for cells in drops]


def test_once_as_json_is_one_line_with_the_same_rows_sorted_and_filtered(fwd: Forwarder) -> None:
    options = ("--every", "300ms", "--sort", "rxall", "--filter", "vhost")
    told = wait_until("a rate", 60, lambda: with_rate(once(fwd, "--json", *options)))
    assert [port["name"] for port in told["ports"]] == ["a", "c", "b"]
    assert {drop["port"] for drop in told["drops"]} <= {"a", "b", "c"}
    a = told["ports"][0]
    assert a["rx_bits"] == pytest.approx(a["rx_rate"] * len(FRAME) * 8, rel=0.01)
    assert told["seconds"] >= 0.3
    assert [line.split()[0] for line in once(fwd, *options).split("\n\n")[0].splitlines()] == ["port", "a", "c", "b"]


def with_rate(text: str) -> dict[str, Any] | None:
    """What was told, where a sent enough for a rate."""
    (line,) = text.splitlines()
    told: dict[str, Any] = json.loads(line)
    return told if told["ports"][0]["rx_rate"] > 20 else None


def test_without_rich_one_line_says_how_to_install_it_and_once_needs_none(fwd: Forwarder) -> None:
    (fwd.directory / "without").mkdir()
    (fwd.directory / "without" / "rich.py").write_text("raise ImportError('no rich')\n")
    paths = {"PYTHONPATH": os.pathsep.join([str(fwd.directory / "without"), ENVIRONMENT.get("PYTHONPATH", "")])}
    with top(control(fwd), **paths) as terminal:
        said = terminal.wait_for("ended 2")
        assert "fastvhost: top: rich is not installed; pip install 'fastvhost[top]'" in said.replace("\n", "")
        terminal.clear()
        terminal.run("env", "TERM=dumb", *FASTVHOST, "top", "--control", str(control(fwd)))
        assert "TERM=dumb: " in terminal.wait_for("ended 2")
    assert fastvhost("top", "--once", "--every", "100ms", "--control", str(control(fwd)), **paths).returncode == 0
