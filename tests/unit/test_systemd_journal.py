"""Lines of the log in systemd's journal. The tests are its socket; a real one is in tests/integration."""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from fastvhost.backend.logbook import Line, Logbook
from fastvhost.cli import log, main, systemd_journal

EVIL = "\x1b[31m\nPRIORITY=0\nFASTVHOST_PORT=other\u202e"
SAID = "\\x1b[31m\\nPRIORITY=0\\nFASTVHOST_PORT=other\\u202e"


@pytest.fixture
def path() -> Iterator[str]:
    with short_dir() as directory:
        yield str(directory / "socket")


@pytest.fixture
def journal(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(path)
        here.setblocking(False)
        yield here


@pytest.fixture
def logger(path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """The logger of fwd, whose standard error is the journal; and what is written there."""
    stream = io.StringIO()
    handler = log._JournalHandler(stream, path)
    handler.setFormatter(log._Marked())
    logger = logging.getLogger("fastvhost")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    yield logger, stream
    logger.manager._clear_cache()  # type: ignore[attr-defined]


Logger = tuple[logging.Logger, io.StringIO]


def entry(journal: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())


def test_a_line_of_a_port_has_fields_and_what_a_peer_says_adds_none(journal: socket.socket, logger: Logger) -> None:
    Logbook("a").write(Line(logging.WARNING, EVIL, "trouble"))
    assert entry(journal) == {
        "MESSAGE": f"port a: {SAID}",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "fastvhost",
        "FASTVHOST_PORT": "a",
        "FASTVHOST_ABOUT": "trouble",
    }
    assert logger[1].getvalue() == ""


def test_a_field_is_made_printable_too(journal: socket.socket, logger: Logger) -> None:
    logger[0].error("x", extra={"worker": EVIL})
    found = entry(journal)
    assert (found["FASTVHOST_WORKER"], found["PRIORITY"]) == (SAID, "3")
    assert "FASTVHOST_PORT" not in found


def test_a_traceback_is_one_entry(journal: socket.socket, logger: Logger) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger[0].exception("internal error")
    data = journal.recv(65536)
    assert data.startswith(b"MESSAGE\n")
    length = int.from_bytes(data[8:16], "little")
    text = data[16 : 16 + length].decode()
    assert text.startswith("internal error\nTraceback")
    assert "\x1b" not in text
    assert data[16 + length :].startswith(b"\nPRIORITY=3\n")


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_a_severity_is_that_of_syslog(level: int, number: int) -> None:
    assert systemd_journal.priority(level) == number
    assert systemd_journal.mark(level) == f"<{number}>"


def test_without_the_journals_socket_each_line_begins_with_its_severity(logger: Logger) -> None:
    logger[0].warning("two %s", "ports")
    try:
        raise ValueError("x")
    except ValueError:
        logger[0].exception("internal error")
    lines = logger[1].getvalue().splitlines()
    assert lines[0] == "<4>two ports"
    assert lines[1] == "<3>internal error"
    assert all(line.startswith("<3>") for line in lines[1:])


def test_a_journal_that_reads_nothing_delays_one_line_and_the_others_are_counted(
    journal: socket.socket, logger: Logger
) -> None:
    start, sent = time.monotonic(), 0
    for sent in range(5000):
        logger[0].info("line %d", sent)
    assert time.monotonic() - start < 10
    while True:
        try:
            last = entry(journal)
        except BlockingIOError:
            break
    logger[0].info("the next")
    note, line = entry(journal), entry(journal)
    left_out = sent - int(last["MESSAGE"].split()[1])
    assert (note["MESSAGE"], note["PRIORITY"]) == (f"{left_out} lines were left out here, nobody read them", "4")
    assert line["MESSAGE"] == "the next"
    assert left_out > 0


def test_only_the_stream_that_systemd_connected_is_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "a").open("w") as one, (tmp_path / "b").open("w") as other:
        found = os.fstat(one.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert systemd_journal.takes_stream(one)
        assert not systemd_journal.takes_stream(other)
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not systemd_journal.takes_stream(one)
    assert not systemd_journal.takes_stream(io.StringIO())
    assert not systemd_journal.takes_stream(one)


def test_an_error_of_the_command_line_has_a_severity_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "a").open("w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", stream)
        assert main.main(["no-such-verb"]) == 2
        stream.seek(0)
        assert stream.read().startswith("<3>fastvhost: no-such-verb: there is no such verb")
