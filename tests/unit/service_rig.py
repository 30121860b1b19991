"""A running vhost-user service with a fake port, for tests of its control thread."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.backend.payload import U64, VringState
from fastvhost.vhostuser.message import MemoryTable, Request, VringFd
from fastvhost.vhostuser.service import VhostUserService
from tests.frontend import Frontend
from tests.unit.fake_port import FAKE_MEMORY, FakePort
from tests.unit.session_bench import MODERN, REGION


def until(condition: Callable[[], Any], timeout: float = MAX_WAIT) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


class Rig:
    """A running service, with a count of its thread's turns."""

    def __init__(self, path: Path, mode: Any = "server", **settings: Any) -> None:
        self.path = path
        self.port = FakePort("a")
        self.service = VhostUserService(str(path), self.port, mode=mode, memory=FAKE_MEMORY, **settings)
        self.service.open()
        self.service.start()
        self.threads = [thread for thread in threading.enumerate() if thread.name == "control a"]

    @property
    def state(self) -> str:
        return str(self.service.describe()["state"])

    def frontend(self) -> Frontend:
        return Frontend.connect(self.path)

    def close(self) -> None:
        self.service.stop(MAX_WAIT)
        self.port.close()


def count_turns(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One more for each turn of the service's thread."""
    turns: list[None] = []
    turn = rig.service._turn
    monkeypatch.setattr(rig.service, "_turn", lambda: (turns.append(None), turn())[1])
    return turns


def run_a_ring(frontend: Frontend) -> None:
    """The fewest messages to a live ring."""
    memory, kick = os.memfd_create("guest"), os.eventfd(1)
    os.ftruncate(memory, REGION.bytes)
    try:
        frontend.send(Request.SET_PROTOCOL_FEATURES, U64(1 << 3).encode())
        frontend.reply_ack = True
        frontend.tell(Request.SET_FEATURES, U64(MODERN).encode())
        frontend.tell(Request.SET_MEM_TABLE, MemoryTable((REGION,)).encode(), [memory])
        frontend.tell(Request.SET_VRING_NUM, VringState(0, 256).encode())
        address = REGION.user_addr
        frontend.tell(Request.SET_VRING_ADDR, struct.pack("=IIQQQQ", 0, 0, address, address, address, 0))
        frontend.tell(Request.SET_VRING_KICK, VringFd(0, False).encode(), [kick])
        frontend.tell(Request.SET_VRING_ENABLE, VringState(0, 1).encode())
    finally:
        os.close(memory)
        os.close(kick)
