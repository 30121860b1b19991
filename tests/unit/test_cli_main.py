"""The command line without a forwarder: exit codes, one line of error, what goes to which stream."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from bench.guests.short_dir import short_dir
from fastvhost import __version__
from fastvhost.cli import main as entry
from fastvhost.cli import show
from fastvhost.cli.example import lines
from fastvhost.cli.text import si, table
from fastvhost.control.kinds import KINDS
from fastvhost.control.port_text import parse

Captured = pytest.CaptureFixture[str]


def refused(capsys: Captured, *argv: str) -> str:
    assert entry.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"fastvhost: [^\n]+\n", err)
    return err


def test_without_a_verb_or_with_an_unknown_one_the_way_on_is_said(capsys: Captured) -> None:
    assert "fastvhost --help" in refused(capsys)
    assert "the verbs are fwd, show" in refused(capsys, "forward")
    assert "--version takes nothing more; see fastvhost --help" in refused(capsys, "--version", "fwd")
    assert "see fastvhost fwd --help" in refused(capsys, "help", "fwd")


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys: Captured) -> None:
    assert "--bla" in refused(capsys, "fwd", "--bla")
    assert "see fastvhost fwd --help" in refused(capsys, "fwd", "--port")
    assert "--stat" in refused(capsys, "fwd", "--port", "a.sock", "--port", "b.sock", "--stat", "1")


def test_help_and_version_are_data(capsys: Captured) -> None:
    for argv, expected in ((["--help"], "fwd"), (["--version"], f"fastvhost {__version__}\n"), (["-V"], "compiler: ")):
        assert entry.main(argv) == 0
        out, err = capsys.readouterr()
        assert expected in out
        assert err == ""


@pytest.mark.parametrize("verb", entry.VERBS)
def test_every_verb_has_help(verb: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        entry.main([verb, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fastvhost {verb}")


def test_the_help_of_fwd_spells_every_kind_of_port_on_a_line_of_its_own(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        entry.main(["fwd", "--help"])
    said = capsys.readouterr().out.split("\nports:\n")[1].splitlines()
    for name, kind in KINDS.items():
        (at,) = [number for number, line in enumerate(said) if line.startswith(f"  {name}:")]
        lines = [said[at], *itertools.takewhile(lambda line: line.startswith("    "), said[at + 1 :])]
        assert max(map(len, lines)) <= 80
        assert all(f"{key}=" in "".join(lines) for key in kind.keys), lines


def test_check_prints_what_would_run_and_starts_nothing(capsys: Captured) -> None:
    with short_dir() as directory:
        ports = ["--port", f"{directory}/a.sock", "--port", f"{directory}/b.sock,mode=client", "--port", "null:"]
        assert entry.main(["fwd", *ports, "--wire", "a:b", "--check"]) == 0
        out = capsys.readouterr().out
        assert f"port 0 a: vhost-user:{directory}/a.sock" in out
        assert "wire: a <-> b" in out
        assert "not wired, no frame reaches it: null" in out
        assert list(directory.iterdir()) == []
        assert entry.main(["fwd", *ports, "--wire", "a:b", "--check", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["wires"] == [["a", "b"]]
        assert plan["unwired"] == ["null"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--forward", "patch"), "hold, 5ms without progress"),
        (("--forward", "learn"), "copy, 5ms each, 256 frames or 512 KiB a receive queue; what is flooded: drop"),
        (("--forward", "learn", "--on-full", "drop"), "drop"),
    ],
)
def test_check_says_what_happens_with_frames_without_room(capsys: Captured, words: tuple[str, ...], said: str) -> None:
    ports = ["--port", "null:", "--port", "null:,name=b"]
    assert entry.main(["fwd", *ports, "--hold-timeout", "5ms", *words, "--check"]) == 0
    assert f"on full: {said}\n" in capsys.readouterr().out


def test_check_finds_what_the_host_lacks(capsys: Captured) -> None:
    with short_dir() as directory:
        ok = f"{directory}/b.sock"
        assert "mkdir -p" in refused(capsys, "fwd", "--check", "--port", f"{directory}/no/a.sock", "--port", ok)
        (directory / "a.sock").touch()
        assert "is no socket" in refused(capsys, "fwd", "--check", "--port", f"{directory}/a.sock", "--port", ok)
        group = ["--socket-group", "no-such-group"]
        assert "groupadd" in refused(capsys, "fwd", "--check", "--port", f"{directory}/c.sock", "--port", ok, *group)
        assert "no core 8000" in refused(
            capsys, "fwd", "--check", "--port", f"{directory}/c.sock", "--port", ok, "--cores", "8000"
        )


def test_the_command_line_wins_over_the_file(capsys: Captured) -> None:
    with short_dir() as directory:
        file = directory / "fwd.toml"
        file.write_text(f'port = ["{directory}/a.sock", "{directory}/b.sock"]\non-full = "drop"\njson = true\n')
        assert entry.main(["fwd", "--config", str(file), "--check"]) == 0
        assert json.loads(capsys.readouterr().out)["on_full"] == "drop"
        assert entry.main(["fwd", "--config", str(file), "--on-full", "hold", "--check"]) == 0
        assert json.loads(capsys.readouterr().out)["on_full"] == "hold"


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m fastvhost fwd --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("\n0\n")
    assert done.stderr == ""


def test_examples_make_guests_reconnect_and_share_their_memory() -> None:
    qemu = lines("qemu", parse("/run/a.sock"), "4G")
    assert "memory-backend-memfd,id=m0,size=4G,share=on" in qemu
    assert "path=/run/a.sock,reconnect-ms=50 " in qemu
    assert "<access mode='shared'/>" in lines("libvirt", parse("a.sock"))
    assert "timeout='1'" in lines("libvirt", parse("a.sock"))
    assert f"path={os.getcwd()}/a.sock,queues=1" in lines("virtio-user", parse("a.sock"))  # noqa: PTH109


def test_examples_follow_mode_and_queues() -> None:
    spec = parse("/run/a.sock,mode=client,queues=2")
    assert "server=on,wait=off" in lines("qemu", spec)
    assert "queues=2 " in lines("qemu", spec)
    assert "mq=on,vectors=6" in lines("qemu", spec)
    assert "mode='server'" in lines("libvirt", spec)
    assert "queues='2'" in lines("libvirt", spec)
    assert "server=1" in lines("virtio-user", spec)


def test_examples_of_a_device_file_open_it_once_for_each_queue_pair() -> None:
    one, two = parse("cuse:fv0"), parse("cuse:fv0,queues=2")
    assert lines("qemu", one).startswith("exec 5<>/dev/fv0\n")
    assert "vhost=on,script=no,downscript=no,vnet_hdr=off,vhostfd=5 " in lines("qemu", one)
    assert lines("qemu", two).startswith("exec 5<>/dev/fv0 6<>/dev/fv0\n")
    # QEMU: "vhostfds= is invalid if fds= wasn't specified".
    assert "for fd in [7, 8]:" in lines("qemu", two)
    assert "vhost=on,fds=7:8,vhostfds=5:6 " in lines("qemu", two)
    assert "net_virtio_user0,path=/dev/fv0,queues=2," in lines("virtio-user", two)
    domain = ElementTree.fromstring(f"<domain>{lines('libvirt', two)}</domain>")
    assert domain.find("interface[@type='ethernet']/backend[@vhost='/dev/fv0']") is not None
    assert domain.find("interface/driver[@queues='2']/host[@csum='off']") is not None


@pytest.mark.parametrize("port", ["a.sock", "a.sock,mode=client", "a.sock,queues=4"])
def test_the_libvirt_example_is_well_formed(port: str) -> None:
    domain = ElementTree.fromstring(f"<domain>{lines('libvirt', parse(port))}</domain>")
    assert domain.find("memoryBacking/access[@mode='shared']") is not None
    source = domain.find("interface[@type='vhostuser']/source")
    assert source is not None
    assert source.get("path") == f"{os.getcwd()}/a.sock"  # noqa: PTH109
    assert (source.find("reconnect") is None) == (source.get("mode") == "server")


def test_an_example_for_a_port_that_nobody_knows_is_refused(capsys: Captured) -> None:
    assert "no such control" not in refused(capsys, "example", "qemu", "nowhere", "--control", "none.sock")
    assert "takes no guest" in refused(capsys, "example", "qemu", "null:")


def test_show_makes_tables_of_lists_of_objects() -> None:
    port = {"number": 0, "name": "a", "kind": "vhost-user", "link": "up", "peer": None, "features": ["X", "Y"]}
    rings = [{"index": 0, "next_avail": 5}, {"index": 1, "next_avail": 65535, "broken": "bad descriptor"}]
    text = show.describe({**port, "rings": rings})
    assert text.splitlines()[0] == "port 0 a (vhost-user), link up"
    assert "  peer: -" in text
    assert "  features: X Y" in text
    assert "index  next avail  broken" in text
    assert "1      65535       bad descriptor" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12, "12"), (999.4, "999"), (999.9, "1.00 k"), (3_214_000, "3.21 M"), (4.5e10, "45.0 G")],
)
def test_rates_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert si(value) == text


def test_tables_align_figures_to_the_right() -> None:
    assert table([("port", "n"), ("a", "10")], "lr") == "port   n\na     10"
