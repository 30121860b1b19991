"""Capture files as a port: one is played to the neighbour, what the neighbour sends is recorded in another."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastvhost.dataplane.ports.endpoint import Endpoint, EndpointClosedError
from fastvhost.dataplane.ports.pcap import PcapError
from fastvhost.dataplane.ports.pcap_file import Player, Recorder
from fastvhost.frontend.logbook import Line, Logbook
from fastvhost.hostside.errors import HostPortError

T = TypeVar("T")

BURST = 64
IDLE_SECONDS = 0.1
"""A stop, or a buffer that comes free, is seen that late at the most where nothing arrives."""


def _opened(kind: Callable[[str], T], path: str, remedy: str) -> T:
    try:
        return kind(path)
    except PcapError as error:
        reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
        raise HostPortError(f"pcap-file {path}: {reason}; {remedy}", "usage") from error


class PcapFileService:
    """Plays and records in a thread of its own. Once played, a file is not played again unless `loop`."""

    def __init__(
        self, port: Endpoint, *, played: str = "", recorded: str = "", loop: bool = False, timed: bool = False
    ) -> None:
        self._port = port
        self._played, self._recorded, self._loop, self._timed = played, recorded, loop, timed
        self._logbook = Logbook(port.name)
        self._player: Player | None = None
        self._recorder: Recorder | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._start = 0.0
        self._frames = 0
        self._written = 0
        self._failed = ""

    def open(self) -> None:
        """Open the files. Raises HostPortError."""
        if self._played:
            self._player = _opened(Player, self._played, "give a capture file that can be read")
        if self._recorded:
            self._recorder = _opened(Recorder, self._recorded, "give a place that can be written")
        said = [f"playing {self._played}"] * bool(self._played) + [f"recording to {self._recorded}"] * bool(
            self._recorded
        )
        self._say(", ".join(said))

    def start(self) -> None:
        """Play and record, until stop()."""
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"control {self._port.name}", daemon=True)
        self._thread.start()

    def withdraw(self) -> None:
        """The first step of a stop. There is no path here that another process could want."""

    def stop(self, timeout: float) -> None:
        """Write what has arrived, close the files."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"the thread of port {self._port.name} did not end in {timeout:g} s")
            self._thread = None
        if self._recorder is not None:
            while self._recorder.record(self._port, BURST):
                pass
            self._recorder.close()
        if self._player is not None:
            self._player.close()

    def describe(self) -> dict[str, Any]:
        """What `fastvhost show` tells."""
        return {
            "in": self._played or None,
            "out": self._recorded or None,
            "state": self._failed or ("playing" if self._player is not None else "idle"),
            "played": self._frames,
            "recorded": self._written,
        }

    def _run(self) -> None:
        with contextlib.suppress(EndpointClosedError):
            while not self._stopping:
                moved = self._play() + self._record()
                if not moved:
                    self._port.wait(self._pause())

    def _play(self) -> int:
        player = self._player
        if player is None:
            return 0
        elapsed = int((time.monotonic() - self._start) * 1e6) if self._timed else -1
        sent = player.play(self._port, BURST, elapsed)
        self._frames += sent
        if player.ended:
            self._end(player)
        return sent

    def _end(self, player: Player) -> None:
        skipped = f", {player.skipped} skipped" if player.skipped else ""
        player.close()
        self._player = None
        if self._loop and self._frames and not self._stopping:
            try:
                self._player, self._start = Player(self._played), time.monotonic()
            except PcapError as error:
                self._say(f"cannot play again: {error}", logging.WARNING)
        else:
            self._say(f"{self._played} has ended, {self._frames} frames played{skipped}")

    def _record(self) -> int:
        if self._recorder is None:
            with self._port.recv(BURST, 0) as burst:
                return len(burst)
        recorded = self._recorder.record(self._port, BURST)
        self._written += recorded
        if not recorded and not self._recorder.flush() and not self._failed:
            self._failed = "cannot write"
            self._say(f"{self._recorded} cannot be written; make room on its disk", logging.ERROR)
        return recorded

    def _pause(self) -> float:
        """How long nothing can happen but an arrival."""
        if self._player is None:
            return IDLE_SECONDS
        if not self._timed:
            return 0.001  # all buffers are on their way
        due = self._player.next_us() / 1e6 - (time.monotonic() - self._start)
        return min(IDLE_SECONDS, max(0.0, due))

    def _say(self, text: str, level: int = logging.INFO) -> None:
        self._logbook.write(Line(level, text, "file"))
