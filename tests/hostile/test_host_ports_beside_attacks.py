"""Ports of other kinds beside an attack: a tap, and a capture file on either side, on the attacked worker.

What is sent into the tap is recorded, what the other file holds is played into the tap, whatever the attacker does.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from tests.hostile.arena import Arena
from tests.hostile.catalogue import CATALOGUE
from tests.integration.namespace import Namespace

pytestmark = pytest.mark.alone

ETHERTYPE = 0x88B5  # for local experiments
OURS, PLAYED = b"\2\0\0\0\1\1", b"\2\0\0\0\1\2"
PCAP_HEADER, PCAP_RECORD = struct.Struct("<IHHiIII"), struct.Struct("<IIII")
FRAME_BYTES, PLAYED_FRAMES, PLAY_GAP = 300, 50, 0.01
PAUSE = 0.002
ENOUGH = 0.99


def kinds() -> list[str]:
    """The first attack of each file, of those that do not take long."""
    found: dict[str, str] = {}
    for entry in CATALOGUE.values():
        if not entry.lasts and "split" in entry.rings:
            found.setdefault(entry.run.__module__, entry.name)
    return list(found.values())


def frame(source: bytes, number: int) -> bytes:
    head = b"\xff" * 6 + source + struct.pack(">HI", ETHERTYPE, number)
    return head + bytes((number + at) & 0xFF for at in range(FRAME_BYTES - len(head)))


def capture(path: Path) -> None:
    records = [
        PCAP_RECORD.pack(0, round(number * PLAY_GAP * 1e6), FRAME_BYTES, FRAME_BYTES) + frame(PLAYED, number)
        for number in range(PLAYED_FRAMES)
    ]
    path.write_bytes(PCAP_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records))


def recorded(path: Path) -> list[bytes]:
    data, at, frames = path.read_bytes(), PCAP_HEADER.size, []
    while at + PCAP_RECORD.size <= len(data):
        _, _, n_bytes, _ = PCAP_RECORD.unpack_from(data, at)
        at += PCAP_RECORD.size + n_bytes
        if at <= len(data):
            frames.append(data[at - n_bytes : at])
    return frames


class Traffic:
    """Numbered frames into the tap, and what comes out of it, in a thread of its own."""

    def __init__(self, space: Namespace) -> None:
        with space.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        self._socket.bind(("t0", ETHERTYPE))
        self._socket.setblocking(False)
        self.sent = self.played = 0
        self.strange: list[bytes] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.wait(PAUSE):
            with contextlib.suppress(BlockingIOError):
                self._socket.send(frame(OURS, self.sent))
                self.sent += 1
            with contextlib.suppress(BlockingIOError):
                while True:
                    got, where = self._socket.recvfrom(2048)
                    if where[2] == socket.PACKET_OUTGOING:
                        continue
                    self.played += 1
                    if got[:12] != b"\xff" * 6 + PLAYED or got != frame(PLAYED, int.from_bytes(got[14:18], "big")):
                        self.strange.append(got)

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(MAX_WAIT)
        self._socket.close()


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    with Namespace() as space:
        yield space


@pytest.fixture(scope="module")
def arena(space: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    played = tmp_path_factory.mktemp("played") / "in.pcap"
    capture(played)

    def start(arguments: list[str], log_path: Path) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", space.name, sys.executable, "-m", "fastvhost", *arguments]
        with log_path.open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    files = f"pcap-file:in={played},timed=yes,loop=yes,out=DIRECTORY/out.pcap,name=files"
    made = Arena(start, flood=False, more=["--port", "tap:t0", "--port", files])
    yield made
    made.close()


def test_a_tap_and_capture_files_lose_and_mix_up_nothing_beside_attacks(arena: Arena, space: Namespace) -> None:
    traffic = Traffic(space)
    try:
        for name in kinds():
            arena.run(CATALOGUE[name], "split")
    finally:
        traffic.stop()
    path = arena.backend.directory / "out.pcap"
    deadline = time.monotonic() + arena.max_wait
    while len(recorded(path)) < traffic.sent and time.monotonic() < deadline:
        time.sleep(0.05)
    frames = recorded(path)
    numbers = [int.from_bytes(each[14:18], "big") for each in frames if each[6:12] == OURS]
    assert all(each == frame(OURS, number) for each, number in zip(frames, numbers, strict=True))
    assert numbers == sorted(set(numbers)), "frames are repeated or out of order"
    assert len(numbers) >= ENOUGH * traffic.sent
    assert traffic.sent > len(kinds())
    assert not traffic.strange
    assert traffic.played > PLAYED_FRAMES
