"""A switch in a program of one's own: ports, wires, table and events, with built-in guests at its sockets."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastvhost
from bench.guests.short_dir import short_dir
from fastvhost import Event, Happened, Switch
from fastvhost.driver.guests import Guests, PairSettings

ROOT = Path(__file__).parents[2]
MAX_WAIT = 30.0


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_dir() as made:
        yield made


def sockets(directory: Path, names: str) -> list[str]:
    return [str(directory / f"{name}.sock") for name in names]


def until(switch: Switch, *wanted: tuple[Happened, str]) -> list[Event]:
    """Events until all of these have come."""
    seen: list[Event] = []
    end = time.monotonic() + MAX_WAIT
    while not set(wanted) <= {(event.what, event.port) for event in seen}:
        assert time.monotonic() < end, seen
        seen += switch.look()
        time.sleep(0.01)
    return seen


def test_guests_are_told_of_as_they_come_learn_and_go(directory: Path) -> None:
    paths = sockets(directory, "abc")
    with Switch(*paths) as switch:
        assert switch.ports == ("a", "b", "c")
        assert switch.wires == ()
        with Guests(*paths[:2], PairSettings(sizes=(100,))) as guests:
            steps = Happened.PORT_UP, Happened.GUEST_READY, Happened.LEARNED
            seen = until(switch, *[(what, port) for what in steps for port in "ab"])
            assert tuple(event.what for event in seen if event.port == "a") == steps
            assert not [event for event in seen if event.port == "c"]
            assert switch.table is not None
            for event in seen:
                if event.what == Happened.LEARNED:
                    assert switch.table.find(event.address) == switch.ports.index(event.port)
            guests.stop()
        until(switch, (Happened.PORT_DOWN, "a"), (Happened.PORT_DOWN, "b"))
        counted = switch.counters()["ports"]
        assert counted["a"]["rx_frames"] > 0
        assert switch.describe("c")[0]["state"] == "listening"
        assert switch.failure == ""
    assert not list(directory.glob("*.sock"))


def test_wires_and_ports_change_while_it_runs(directory: Path) -> None:
    a, b, c = sockets(directory, "abc")
    with Switch(a, b) as switch:
        assert switch.wires == (("a", "b"),)
        assert switch.table is None
        switch.remove_wire("a", "b")
        switch.add_port(c)
        switch.add_wire("c", "a")
        assert switch.wires == (("c", "a"),)
        with pytest.raises(fastvhost.UsageError, match="port 'a' has the wire c:a already"):
            switch.add_wire("a", "b")
        switch.remove_port("b")
        assert switch.ports == ("a", "c")
        with pytest.raises(KeyError):
            switch.describe("b")


def test_keys_of_a_port_change_while_it_runs(directory: Path) -> None:
    a, b, c = sockets(directory, "abc")
    with Switch(f"{a},vlan=5", b, c) as switch:
        switch.set_port("a", "vlan=6,rate=1Gbit")
        about = switch.describe("a")[0]
        assert (about["vlan"], about["rate"]) == ("6", "1Gbit")
        with pytest.raises(fastvhost.UsageError, match="port set a vlan=0: vlan=0: no VLAN has this number"):
            switch.set_port("a", "vlan=0")
        assert switch.describe("a")[0]["vlan"] == "6"


@pytest.mark.parametrize(
    ("ports", "options", "said"),
    [
        (("a.sock",), {}, "two ports at least"),
        (("a.sock", "a.sock"), {}, "2 ports are called 'a'"),
        (("a.sock", "b.sock"), {"forward": "bridge"}, "use patch or learn"),
        (("a.sock", "b.sock"), {"colour": "red"}, "there is no option 'colour'; the options are control, "),
        (("a.sock", "b.sock", "c.sock"), {"mac_age": "soon"}, "--mac-age soon: not a duration"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    ports: tuple[str, ...], options: dict[str, str], said: str
) -> None:
    with pytest.raises(fastvhost.UsageError, match=said) as caught:
        Switch(*ports, **options)
    assert "\n" not in str(caught.value)


def test_events_end_with_the_switch(directory: Path) -> None:
    async def all_events(switch: Switch) -> list[Event]:
        found = []
        async for event in switch.events():
            found.append(event)
            if event.what == Happened.PORT_UP and event.port == "n":
                await asyncio.to_thread(switch.stop)
        return found

    with Switch(*sockets(directory, "a"), "null:,name=n") as switch:
        assert asyncio.run(asyncio.wait_for(all_events(switch), MAX_WAIT)) == [Event(Happened.PORT_UP, "n")]


def test_the_program_in_the_readme_tells_of_guests(directory: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (program,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "fastvhost.Switch(" in code]
    (directory / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (directory / "out").open("wb") as out:
        process = subprocess.Popen([sys.executable, "program.py"], cwd=directory, env=environment, stdout=out)
    try:
        end = time.monotonic() + MAX_WAIT
        while len(list(directory.glob("*.sock"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        with Guests(*sockets(directory, "ab"), PairSettings(sizes=(100,))):
            while "address learned b 52:" not in (said := (directory / "out").read_text()):
                assert time.monotonic() < end, said
                time.sleep(0.01)
        assert "guest ready a" in said
    finally:
        process.kill()
        process.wait()
