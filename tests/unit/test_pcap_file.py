"""Capture files as ports: two ports wired to each other, one plays a file and the other records it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost import attach
from fastvhost.control.attachment import Attachment
from fastvhost.control.errors import FastvhostError
from fastvhost.control.kinds import pcap_file as kind
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.ports.pcap import PcapError
from fastvhost.dataplane.ports.pcap_file import Player, Recorder
from fastvhost.hostside import pcap_file
from tests.own_time import OwnTime
from tests.silent_files import Silent
from tests.unit.forwarder import Forwarder, fastvhost, forwarder


def save(path: Path, frames: list[tuple[float, bytes]], *, link: int = 1, cut: int = 0) -> None:
    """A capture file as pcap-savefile(5) describes it. cut: bytes of each frame that are not in the file."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)
    for seconds, frame in frames:
        there = frame[: len(frame) - cut]
        data += struct.pack("<IIII", int(seconds), round(seconds % 1 * 1e6), len(there), len(frame)) + there
    path.write_bytes(data)


def load(path: Path) -> list[bytes]:
    """The frames of a capture file."""
    data, frames, at = path.read_bytes(), [], 24
    while at < len(data):
        (there,) = struct.unpack_from("<8xI", data, at)
        frames.append(data[at + 16 : at + 16 + there])
        at += 16 + there
    return frames


FRAMES = [bytes([n]) * (14 + 37 * n) for n in range(40)]


def receive(port: str, count: int, seconds: float = MAX_WAIT) -> list[bytes]:
    """The frames that come from a port, until there are `n` or the time is over."""
    found: list[bytes] = []
    with attach(port) as attached:
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            with attached.endpoint.recv(timeout=0.1) as burst:
                found += [bytes(frame) for frame in burst]
    return found


def send_all(port: Attachment) -> None:
    """FRAMES, until the port has them."""
    assert port.endpoint.send(FRAMES, timeout=MAX_WAIT) == len(FRAMES)
    deadline = time.monotonic() + MAX_WAIT
    while port.stats()["ports"][port.spec.name]["tx_frames"] < len(FRAMES) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_file_is_played_once_whole_and_in_order(tmp_path: Path) -> None:
    save(tmp_path / "in.pcap", [(100 * n, frame) for n, frame in enumerate(FRAMES)])
    assert receive(f"pcap-file:in={tmp_path}/in.pcap", len(FRAMES)) == FRAMES
    assert receive(f"pcap-file:in={tmp_path}/in.pcap", len(FRAMES) + 1, 1)[len(FRAMES) :] == []


def test_a_file_that_loops_begins_again(tmp_path: Path) -> None:
    save(tmp_path / "in.pcap", [(0, frame) for frame in FRAMES])
    assert receive(f"pcap-file:in={tmp_path}/in.pcap,loop=yes", 1000)[:120] == FRAMES * 3


def test_recorded_time_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "in.pcap", [(7 + 0.1 * n, frame) for n, frame in enumerate(FRAMES[:4])])
    start = time.monotonic()
    assert receive(f"pcap-file:in={tmp_path}/in.pcap,timed=yes", 4) == FRAMES[:4]
    assert time.monotonic() - start >= 0.3


def test_what_arrives_is_recorded_to_the_last_frame(tmp_path: Path) -> None:
    with attach(f"pcap-file:out={tmp_path}/out.pcap") as port:
        send_all(port)
    assert load(tmp_path / "out.pcap") == FRAMES


def test_frames_that_cannot_be_sent_are_skipped_and_counted(tmp_path: Path) -> None:
    save(tmp_path / "cut.pcap", [(0, frame) for frame in FRAMES], cut=1)
    player = Player(str(tmp_path / "cut.pcap"))
    assert (player.ended, player.skipped, player.next_us()) == (True, len(FRAMES), -1)
    player.close()
    save(tmp_path / "runts.pcap", [(0, bytes(13)), (0, FRAMES[3]), (0, bytes(9217))])
    assert receive(f"pcap-file:in={tmp_path}/runts.pcap", 1) == [FRAMES[3]]
    assert receive(f"pcap-file:in={tmp_path}/runts.pcap", 2, 1)[1:] == []


def test_a_file_that_is_no_capture_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pcap").write_text("no capture file, but long enough to look like one")
    save(tmp_path / "tokenring.pcap", [], link=6)
    refusals = {"none.pcap": "No such file", "text.pcap": "unknown file format", "tokenring.pcap": "not Ethernet"}
    for file, said in refusals.items():
        with pytest.raises(FastvhostError, match=said) as caught:
            attach(f"pcap-file:in={tmp_path}/{file}").__enter__()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"pcap-file {tmp_path}/{file}: ")
        assert str(caught.value).count(file) == 1
    with pytest.raises(FastvhostError, match="no such directory; give a place that can be written"):
        attach(f"pcap-file:out={tmp_path}/no/where.pcap").__enter__()
    with pytest.raises(PcapError):
        Player(str(tmp_path / "none.pcap"))


def ask(fwd: Forwarder, command: str) -> object:
    """An answer of its control socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(MAX_WAIT)
        connection.connect(str(fwd.directory / "control.sock"))
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        return json.loads(connection.makefile().readline())["result"]


def played(fwd: Forwarder, frames: int) -> bool:
    (port, _) = ask(fwd, "show")  # type: ignore[misc]
    return bool(port["played"] == frames)


def test_a_pipe_that_falls_silent_holds_up_neither_answers_nor_guests_nor_the_end(directory: Path) -> None:
    pipe, out = directory / "pipe", directory / "out.pcap"
    os.mkfifo(pipe)
    save(directory / "in.pcap", [(0, frame) for frame in FRAMES[:10]])
    with forwarder(ports=(f"pcap-file:in={pipe},out={out},name=p", "a.sock")) as fwd:
        assert f"port p: waiting for {pipe}, a pipe" in fwd.log
        assert fastvhost("fwd", "--port", f"pcap-file:in={pipe}", "--port", "null:", "--check").returncode == 0
        with pipe.open("wb", buffering=0) as writer:
            writer.write((directory / "in.pcap").read_bytes())
            fwd.wait_for("ten frames are played", lambda: played(fwd, 10))
            # Counted a moment after they are played.
            fwd.wait_for("they are counted", lambda: ask(fwd, "stats")["ports"]["p"]["rx_frames"] == 10)  # type: ignore[index]
            code, took = fwd.end()
        assert (code, fwd.warnings) == (0, [])
        assert took < 2.0
    assert load(out) == []


def test_a_pipe_without_another_end_keeps_neither_a_start_nor_an_end_waiting(directory: Path) -> None:
    for name in ("in", "out"):
        os.mkfifo(directory / name)
    with forwarder(ports=(f"pcap-file:in={directory}/in,out={directory}/out,name=p", "a.sock")) as fwd:
        (port, _) = ask(fwd, "show")  # type: ignore[misc]
        assert port["state"] == f"waiting for {directory}/in"
        code, took = fwd.end(signal.SIGINT)
        assert (code, fwd.warnings) == (130, [])
        assert took < 2.0


def test_a_pipe_that_takes_no_more_costs_the_last_frames_and_not_the_end(directory: Path) -> None:
    os.mkfifo(directory / "out")
    save(directory / "in.pcap", [(0, bytes(9000)) for _ in range(100)])
    ports = (f"pcap-file:in={directory}/in.pcap,loop=yes", f"pcap-file:out={directory}/out")
    with forwarder("--wire", "in:out", ports=ports) as fwd, (directory / "out").open("rb", buffering=0) as reader:
        assert sum(len(reader.read(1)) for _ in range(1000)) == 1000  # the header alone comes first
        fwd.wait_for("some are written", lambda: ask(fwd, "stats")["ports"]["out"]["tx_frames"] > 300)  # type: ignore[index]
        code, took = fwd.end()
        assert code == 1
        assert took < 2.2
        assert f"port out: did not stop cleanly: {directory}/out takes nothing, what arrived last is not" in fwd.log


@pytest.fixture
def beats() -> Iterator[list[float]]:
    """When another thread had its turn, every 10 ms: without the time in which this process had no CPU."""
    own, end = OwnTime(), threading.Event()
    times = [own.seconds]

    def beat() -> None:
        while not end.wait(0.01):
            times.append(own.seconds)

    thread = threading.Thread(target=beat)
    thread.start()
    yield times
    end.set()
    thread.join()


def test_a_file_server_that_does_not_answer_holds_up_its_port_alone(
    beats: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kind, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(pcap_file, "OPEN_SECONDS", 0.3)
    with Silent() as (fd,):
        path = f"/proc/self/fd/{fd}"
        for key in ("in", "out"):
            with pytest.raises(FastvhostError, match=f"pcap-file {path}: its file system does not answer; mount"):
                attach(f"pcap-file:{key}={path}")
            port = Endpoint("p", Door())
            files = {"played": path} if key == "in" else {"recorded": path}
            service = pcap_file.PcapFileService(port, **files)  # type: ignore[arg-type]
            service.open()
            service.start()
            assert f"waiting for {path}, which does not answer" in caplog.text
            with pytest.raises(TimeoutError):
                service.stop(0.0)
            service.stop(1.0)
            assert service.left_behind
            port.close()
        assert max(after - before for before, after in itertools.pairwise(beats)) < 0.25


def test_an_internal_error_ends_the_playing_and_is_logged_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "in.pcap", [(0, frame) for frame in FRAMES])

    class Broken:
        ended, played, skipped = False, 0, 0

        def __init__(self, path: str) -> None: ...
        def play(self, *_: object) -> int:
            raise MemoryError

        def close(self) -> None: ...

    monkeypatch.setattr(pcap_file, "Player", Broken)
    with attach(f"pcap-file:in={tmp_path}/in.pcap,out={tmp_path}/out.pcap") as port:
        deadline = time.monotonic() + MAX_WAIT
        while port.describe()["state"] == "playing" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "internal error MemoryError" in port.describe()["state"]
        send_all(port)  # recording goes on
    assert "has ended: internal error MemoryError" in caplog.text
    assert load(tmp_path / "out.pcap") == FRAMES


def test_a_defect_does_not_end_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    class Broken(Recorder):
        def record(self, endpoint: Endpoint, most: int) -> int:
            if not failed.is_set():
                failed.set()
                raise MemoryError
            return super().record(endpoint, most)

    monkeypatch.setattr(pcap_file, "Recorder", Broken)
    with attach(f"pcap-file:out={tmp_path}/out.pcap") as port:
        assert failed.wait(MAX_WAIT)
        send_all(port)
    assert load(tmp_path / "out.pcap") == FRAMES
    assert caplog.text.count("internal error MemoryError") == 1
