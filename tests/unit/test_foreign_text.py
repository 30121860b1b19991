"""Names and answers of other processes on their way to a terminal and a log."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import threading
from pathlib import Path

import psutil
import pytest

from fastvhost.backend.foreign_text import printable
from fastvhost.backend.logbook import Line, Logbook
from fastvhost.cli import log, main, output
from fastvhost.control import host

EVIL = "\x1b]0;owned\x07\r\n\x9b2J\u202e\udc80\x7f"
SAID = r"\x1b]0;owned\x07\r\n\x9b2J\u202e\udc80\x7f"


def test_all_that_a_terminal_obeys_is_written_out_and_nothing_else() -> None:
    assert printable(EVIL) == SAID
    every = "".join(map(chr, range(0x3000)))
    assert printable(printable(every)) == printable(every)
    assert printable("a guest's name: ä, 日本, 100 %, C:\\x") == "a guest's name: ä, 日本, 100 %, C:\\x"


def test_answers_are_written_out_in_every_depth_and_keep_their_numbers() -> None:
    assert output.harmless({EVIL: [1, 2.5, None, True, {"a": EVIL}]}) == {SAID: [1, 2.5, None, True, {"a": SAID}]}


def test_the_log_is_one_line_for_each_message_whatever_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastvhost")
    Logbook(f"p{EVIL}").write(Line(logging.INFO, EVIL, "x"))
    assert caplog.messages == [f"port p{SAID}: {SAID}"]
    stream = io.StringIO()
    handler = log._Handler(stream)
    handler.setFormatter(log._Formatter())
    record = logging.LogRecord("fastvhost", logging.WARNING, "", 0, "said %s", (EVIL,), None)
    handler.handle(record)
    assert stream.getvalue().endswith(f"warning: said {SAID}\n")
    assert stream.getvalue().count("\n") == 1


def test_the_name_of_a_process_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy:
        pid = 7

        def cpu_times(self) -> psutil._pslinux.pcputimes:  # type: ignore[name-defined]
            raise AssertionError

        def cpu_num(self) -> int:
            return 3

        def name(self) -> str:
            return EVIL

    busy = Busy()
    monkeypatch.setattr(host, "_cpu_seconds", lambda: {busy: 1.0})
    assert host._users({busy: 0.0}) == {3: f" ({SAID}, pid 7)"}  # type: ignore[dict-item]


PORT = {"number": 0, "name": EVIL, "kind": "k", "link": "up", EVIL: [EVIL], "rings": [{EVIL: EVIL}]}
STATS = {"ports": {EVIL: {"link": EVIL, "rx_frames": 0, "tx_frames": 0, "rx_dropped": {EVIL: 1}, "tx_dropped": {}}}}


@pytest.mark.parametrize(
    ("words", "answer", "code"),
    [
        (["show"], {"ok": True, "result": [PORT]}, 0),
        (["show", "--json"], {"ok": True, "result": [PORT]}, 0),
        (["stats"], {"ok": True, "result": {**STATS, "workers": {}}}, 0),
        (["stats"], {"ok": True, "result": {"ports": [EVIL]}}, 1),
        (["stats"], {"ok": True, "result": EVIL}, 1),
        (["show"], {"ok": True, "result": {EVIL: EVIL}}, 1),
        (["show"], {"ok": False, "error": EVIL}, 1),
        (["example", "qemu", "a"], {"ok": True, "result": [{"name": EVIL, "kind": "vhost-user", "socket": EVIL}]}, 0),
        (["example", "qemu", "a"], {"ok": False, "error": EVIL}, 2),
    ],
)
def test_what_another_process_answers_moves_no_cursor(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], answer: object, code: int
) -> None:
    path = directory / "c.sock"
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(os.fspath(path))
        stranger.listen()

        def reply() -> None:
            connection, _ = stranger.accept()
            connection.recv(4096)
            connection.sendall(json.dumps(answer).encode() + b"\n")
            connection.close()

        thread = threading.Thread(target=reply)
        thread.start()
        assert main.main([*words, "--control", os.fspath(path)]) == code
        thread.join()
    seen = capsys.readouterr()
    text = seen.out + seen.err
    assert re.search(r"[^\n -~]", text) is None, text
    assert "Traceback" not in text
    assert "owned" in text or "not fastvhost's" in text
