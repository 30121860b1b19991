"""Capture files as ports: played to the neighbour and recorded from it, by two ports wired to each other."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from fastvhost import attach
from fastvhost.control.errors import FastvhostError
from fastvhost.dataplane.ports.pcap import PcapError
from fastvhost.dataplane.ports.pcap_file import Player


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


def receive(port: str, count: int, seconds: float = 10) -> list[bytes]:
    """What comes from a port, until there are so many frames or the time is over."""
    found: list[bytes] = []
    with attach(port) as attached:
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            with attached.endpoint.recv(timeout=0.1) as burst:
                found += [bytes(frame) for frame in burst]
    return found


def test_a_file_is_played_once_whole_and_in_order(tmp_path: Path) -> None:
    save(tmp_path / "in.pcap", [(100 * n, frame) for n, frame in enumerate(FRAMES)])
    assert receive(f"pcap-file:in={tmp_path}/in.pcap", len(FRAMES) + 1, 1) == FRAMES


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
        assert port.endpoint.send(FRAMES, timeout=5) == len(FRAMES)
        deadline = time.monotonic() + 5
        while port.stats()["ports"]["out"]["tx_frames"] < len(FRAMES) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert load(tmp_path / "out.pcap") == FRAMES


def test_frames_that_cannot_be_sent_are_skipped_and_counted(tmp_path: Path) -> None:
    save(tmp_path / "cut.pcap", [(0, frame) for frame in FRAMES], cut=1)
    player = Player(str(tmp_path / "cut.pcap"))
    assert (player.ended, player.skipped, player.next_us()) == (True, len(FRAMES), -1)
    player.close()
    save(tmp_path / "runts.pcap", [(0, bytes(13)), (0, FRAMES[3]), (0, bytes(9217))])
    assert receive(f"pcap-file:in={tmp_path}/runts.pcap", 2, 1) == [FRAMES[3]]


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
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
