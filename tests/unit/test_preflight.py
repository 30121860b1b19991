"""Obstacles to a configuration on this host are reported in one line, before anything starts."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fastvhost
from bench.guests.short_dir import short_dir
from fastvhost import attach
from fastvhost.cli import main as entry
from fastvhost.control import config, diagnosis, host, preflight
from fastvhost.control.control_socket import ControlSocket
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.kinds import pcap

NOBODY = 65534


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_dir() as path:
        path.chmod(0o1777)
        yield path


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's rights, where we have them."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def refusal(*ports: object, **options: object) -> str:
    """Of a configuration, by an ordinary user."""
    with pytest.raises(UsageError) as caught, nobody():
        preflight.check(config.build({"port": [str(port) for port in ports], **options}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_capture_file_that_cannot_be_read_or_written_is_named_with_the_reason(directory: Path) -> None:
    there, secret, closed = directory / "there.pcap", directory / "secret.pcap", directory / "closed"
    there.write_bytes(b"kept")
    secret.touch(0o600)
    closed.mkdir(0o555)
    there.chmod(0o666)
    reading, writing = "give a capture file that can be read", "give a place that can be written"
    for file, option, words in (
        (directory / "none.pcap", "in", f"No such file or directory; {reading}"),
        (secret, "in", f"Permission denied; {reading}"),
        (secret, "out", f"Permission denied; {writing}"),
        (directory / "none" / "new.pcap", "out", f"{host.MISSING}; {writing}"),
        (closed / "new.pcap", "out", f"{host.READ_ONLY}; {writing}"),
    ):
        assert refusal(f"pcap-file:{option}={file}", "b.sock") == f"pcap-file {file}: {words}"
    new = directory / "new.pcap"
    with nobody():
        preflight.check(config.build({"port": [f"pcap-file:in={there},out={new}", f"pcap-file:out={there},name=two"]}))
    assert there.read_bytes() == b"kept"
    assert not new.exists()


def test_a_pipe_to_be_played_is_not_opened_by_a_check(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    preflight.check(config.build({"port": [f"pcap-file:in={directory}/pipe", f"{directory}/b.sock"]}))


@pytest.mark.parametrize("mode", ["server", "client"])
def test_a_directory_that_may_not_be_entered_is_named_with_the_reason(directory: Path, mode: str) -> None:
    (directory / "closed" / "inner").mkdir(parents=True)
    (directory / "closed").chmod(0)
    port = directory / "closed" / "inner" / "a.sock"
    said = refusal(f"{port},mode={mode}", "b.sock")
    assert said.startswith(f"{port}: {port.parent}: Permission denied; ")
    with nobody():
        finding = diagnosis.sockets(port.parent)
    assert (finding.verdict, finding.text) == ("bad", f"{port.parent}: Permission denied")
    (directory / "closed").chmod(0o700)


def test_links_that_go_round_in_circles_are_no_directory(directory: Path) -> None:
    (directory / "loop").symlink_to("loop")
    said = refusal(directory / "loop" / "a.sock", "null:")
    assert said.endswith(f": {directory}/loop: no such directory; make it with mkdir -p {directory}/loop")


def test_a_control_socket_in_a_ports_place_is_refused_however_it_is_spelt(directory: Path) -> None:
    (directory / "link").symlink_to(".")
    said = refusal(directory / "a.sock", "null:", control=f"{directory}/link/a.sock")
    assert "port 'a' has this socket; give each its own" in said


def test_a_path_on_which_another_process_answers_is_refused_at_a_start_and_that_one_hears_nothing_of_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("a.sock")
        other.listen()
        other.setblocking(False)
        (directory / "a.sock").chmod(0o666)
        for path in ("a.sock", f"{directory}/a.sock"):
            said = "a.sock: another process answers on it; stop that one or "
            (warning,) = preflight.check_for_later(config.build({"port": [path, "null:"]}))
            assert warning.endswith(f"{said}choose another path")
            assert refusal(path, "null:") == warning
            (warning,) = preflight.check_for_later(config.build({"port": ["b.sock", "null:"], "control": path}))
            assert warning.endswith(f"{said}name another place with --control PATH")
        with pytest.raises(BlockingIOError):
            other.accept()
        # A client may use a path where another process listens.
        assert preflight.check_for_later(config.build({"port": ["a.sock,mode=client", "null:"]})) == ()
    # Now it is a stale one, which the start removes, and not the check.
    assert preflight.check_for_later(config.build({"port": ["a.sock", "null:"]})) == ()
    assert (directory / "a.sock").exists()


def test_a_directory_in_which_others_may_replace_a_socket_is_refused_with_the_remedy(directory: Path) -> None:
    directory.chmod(0o777)
    remedy = f"other users may replace files in {directory} (mode 0777), and so this socket; as its owner: chmod +t"
    assert remedy in refusal(directory / "a.sock", "null:")
    assert remedy in refusal("null:", "null:,name=n", control=f"{directory}/c.sock")
    found = diagnosis.sockets(directory)
    assert (found.verdict, found.remedy) == ("bad", f"chmod +t {directory}")
    # Whoever makes a client's socket looks after its place.
    preflight.check(config.build({"port": [f"{directory}/a.sock,mode=client", "null:"]}))


def test_a_group_that_the_user_is_no_member_of_is_refused_before_anything_starts(directory: Path) -> None:
    foreign = next(number for number in range(4_000_000_000, 0, -1) if number not in os.getgroups())
    said = refusal(directory / "a.sock", "null:", **{"socket-group": str(foreign)})
    assert f"--socket-group {foreign}: user" in said
    assert "is no member of it" in said


@pytest.mark.parametrize("number", [2**32 - 1, 2**32, 10**30])
def test_numbers_that_no_group_and_no_owner_can_have_are_refused(directory: Path, number: int) -> None:
    said = refusal(directory / "a.sock", "null:", **{"socket-group": str(number)})
    assert said.startswith(f"--socket-group {number}: no group has a number beyond")
    assert f"owner={number}: a tap's owner has a number up to" in refusal(f"tap:t0,owner={number}", "null:")


def test_a_control_socket_that_cannot_be_given_to_its_group_is_not_left_behind(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(RuntimeFailure, match="Operation not permitted"):
        ControlSocket(directory / "c.sock", {}, 1).open()
    assert list(directory.iterdir()) == []


def test_doctor_goes_through_where_the_compiled_part_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fastvhost.build_info()  # whoever ran before in this process had it loaded
    monkeypatch.delattr(fastvhost, "_build")
    for module in ("fastvhost._build", "fastvhost.dataplane.ports.pcap"):
        monkeypatch.setitem(sys.modules, module, None)
    assert pcap.libpcap().verdict == "note"
    assert entry.main(["doctor", "--directory", "/tmp"]) == 1
    said = capsys.readouterr().out
    assert "bad   the compiled data plane does not load" in said
    assert "pip install --force-reinstall ." in said


def test_a_program_catches_what_attach_refuses_by_a_public_name() -> None:
    with pytest.raises(fastvhost.UsageError):
        attach("nothing")
    assert issubclass(fastvhost.RuntimeFailure, fastvhost.FastvhostError)
    assert {"FastvhostError", "UsageError", "RuntimeFailure"} <= set(fastvhost.__all__)


def test_an_interface_that_is_no_tap_is_named_and_nobody_is_told_to_delete_it() -> None:
    with pytest.raises(UsageError) as caught:
        attach("tap:lo").__enter__()
    assert str(caught.value) == "tap lo: it exists and is no tap interface; choose another name"
