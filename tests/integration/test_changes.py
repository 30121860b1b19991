"""A running fwd changes: the verbs port, wire and reload, SIGHUP, and what is refused. Real process, real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.driver.guests import Guests, PairSettings
from tests.unit.forwarder import Forwarder, fastvhost, forwarder

LISTENS = "port c: listening"
HOLDS = ("--on-full", "hold", "--hold-timeout", "60s")


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_dir() as path:
        yield path


@pytest.fixture
def fwd() -> Iterator[Forwarder]:
    with forwarder(*HOLDS, "--wire", "a:b", ports=("a.sock", "b.sock", "c.sock"), log_has=LISTENS) as running:
        yield running


def verb(fwd: Forwarder, *words: str) -> subprocess.CompletedProcess[str]:
    """The verb to its end; again where the worker had no CPU for so long that nothing was changed."""
    command = (*words, "--control", str(fwd.directory / "control.sock"))
    return wait_until(
        "a worker that comes to the door",
        2 * MAX_WAIT,
        lambda: None if "not come to the door" in (done := fastvhost(*command, cwd=fwd.directory)).stderr else done,
    )


def said(fwd: Forwarder, *words: str) -> list[str]:
    done = verb(fwd, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def refused(fwd: Forwarder, *words: str) -> str:
    """One line on stderr and exit code 2; the fwd is as it was."""
    before = said(fwd, "port", "list")
    done = verb(fwd, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert said(fwd, "port", "list") == before
    return done.stderr.removeprefix("fastvhost: ").strip()


def test_ports_and_wires_are_added_listed_and_removed(fwd: Forwarder) -> None:
    sock = fwd.directory / "d.sock"
    assert said(fwd, "port", "add", "d.sock,queues=2") == [
        f"port d added: vhost-user:{sock},mode=server,queues=2,name=d"
    ]
    assert sock.is_socket()
    assert said(fwd, "wire", "add", "d:c") == ["wire d:c added"]
    assert said(fwd, "wire", "list") == ["a:b", "c:d"]
    assert [json.loads(line) for line in said(fwd, "wire", "list", "--json")] == [
        {"ports": ["a", "b"]}, {"ports": ["c", "d"]},
    ]  # fmt: skip
    assert said(fwd, "port", "list")[1:3] == [
        "0       a     vhost-user  down  b",
        "1       b     vhost-user  down  a",
    ]
    row = {"number": 3, "name": "d", "kind": "vhost-user", "link": "down", "wired_to": "c"}
    assert json.loads(said(fwd, "port", "list", "--json")[-1]) == row
    assert said(fwd, "wire", "del", "c:d") == ["wire d:c removed"]
    assert said(fwd, "port", "del", "d") == ["port d removed"]
    assert not sock.exists()
    assert said(fwd, "port", "del", "a") == ["wire a:b removed", "port a removed"]
    assert [line for line in fwd.warnings if "no wire joins it" not in line] == []


def test_what_cannot_be_is_refused_with_one_line(fwd: Forwarder) -> None:
    assert refused(fwd, "wire", "add", "a:c").startswith("wire add a:c: port 'a' has the wire a:b already; first do")
    assert refused(fwd, "port", "del", "z") == "port del z: there is no port 'z'; the ports are a, b, c"
    assert refused(fwd, "port", "add", "a.sock").startswith("port add vhost-user:/")
    assert "no key 'foo'" in refused(fwd, "port", "add", "d.sock,foo=1")
    assert refused(fwd, "reload").startswith("reload: this fwd has no configuration file; start it with --config")
    assert refused(fwd, "port", "add").startswith("port add: SPEC is missing; see fastvhost port --help")
    assert refused(fwd, "wire", "list", "a:b").startswith("wire list: 'a:b' is one word too many")
    taken = fwd.directory / "file.sock"
    taken.write_text("not a socket")
    assert "file.sock" in refused(fwd, "port", "add", "file.sock")
    assert taken.read_text() == "not a socket"


def test_frames_go_where_the_wire_leads_now(fwd: Forwarder) -> None:
    sockets = {name: str(fwd.directory / f"{name}.sock") for name in "abcd"}
    said(fwd, "port", "add", "d.sock")
    said(fwd, "wire", "add", "c:d")
    for left, right in (("a", "b"), ("c", "d")):
        exchange(sockets[left], sockets[right])
    said(fwd, "wire", "del", "a:b")
    said(fwd, "wire", "del", "c:d")
    said(fwd, "wire", "add", "a:c")
    exchange(sockets["a"], sockets["c"])
    assert fwd.stats()["ports"]["b"]["rx_frames"] > 0


def exchange(left: str, right: str) -> None:
    """Two built-in guests flood each other for a moment; all arrives once, whole and in order."""
    guests = Guests(left, right, PairSettings(content="whole", sleeps=True))
    guests.start()
    wait_until("frames both ways", MAX_WAIT, lambda: min(each.frames for each in guests.counters()) > 1000)
    final = guests.stop()
    assert (final.lost, final.corrupt, final.reordered, final.duplicated) == (0, 0, 0, 0)


def configuration(directory: Path, *ports: str, wires: tuple[str, ...], more: str = "") -> None:
    path = directory / "fwd.toml"
    path.write_text(f"port = {json.dumps(ports)}\nwire = {json.dumps(wires)}\n{more}")


@pytest.fixture
def from_file(directory: Path) -> Iterator[Forwarder]:
    """A fwd whose ports and wires are those of fwd.toml in `directory`."""
    names = [str(directory / f"{name}.sock") for name in "abc"]
    configuration(directory, *names, wires=("a:b",))
    with forwarder("--config", str(directory / "fwd.toml"), ports=(), log_has=LISTENS) as running:
        yield running


def test_a_reload_applies_what_differs_all_of_it_or_nothing(from_file: Forwarder, directory: Path) -> None:
    a, b, d = (str(directory / f"{name}.sock") for name in "abd")
    assert said(from_file, "reload") == ["nothing differs"]
    configuration(directory, a, f"{b},queues=2", d, wires=("d:a",))
    assert said(from_file, "reload") == [
        "wire a:b removed",
        "port c removed",
        f"port b made anew: vhost-user:{b},mode=server,queues=2,name=b",
        f"port d added: vhost-user:{d},mode=server,queues=1,name=d",
        "wire d:a added",
    ]
    assert said(from_file, "wire", "list") == ["a:d"]
    (directory / "e.sock").write_text("not a socket")
    configuration(directory, a, f"{b},queues=4", str(directory / "e.sock"), wires=("a:b",))
    assert "e.sock" in refused(from_file, "reload")
    configuration(directory, a, b, wires=("a:z",))
    assert refused(from_file, "reload").startswith(
        f"--config {directory}/fwd.toml, line 2: --wire a:z: there is no port"
    )
    configuration(directory, a, b, wires=("a:b",), more='on-full = "drop"\n')
    assert "reload: on-full is drop in the file and hold here" in refused(from_file, "reload")
    (directory / "fwd.toml").write_text("\nport = ,\n")
    assert "line 2" in refused(from_file, "reload")
    exchange(a, d)


def test_sighup_reloads_where_there_is_a_file_and_logs_what_is_wrong_with_it(
    from_file: Forwarder, directory: Path
) -> None:
    a, b = (str(directory / f"{name}.sock") for name in "ab")
    configuration(directory, a, b, wires=("a:b",))
    os.kill(from_file.process.pid, signal.SIGHUP)
    from_file.wait_for("port c is gone", lambda: not (directory / "c.sock").exists())
    configuration(directory, a, b, wires=("a:z",))
    os.kill(from_file.process.pid, signal.SIGHUP)
    from_file.wait_log("there is no port 'z'; the ports are a, b; nothing was changed")
    assert said(from_file, "wire", "list") == ["a:b"]
    assert from_file.end(signal.SIGTERM)[0] == 0
