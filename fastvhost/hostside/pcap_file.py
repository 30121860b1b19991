"""Capture files as a port: one is played to the port that it is wired to, another records what that port sends.

A file may be a pipe, or lie on a file server, and never answer. So a thread of its own opens, reads or writes, and
closes each; neither a start nor a stop waits for it for long.
"""

from __future__ import annotations

import contextlib
import logging
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from fastvhost.backend.logbook import Line, Logbook
from fastvhost.dataplane.ports.endpoint import Endpoint, EndpointClosedError
from fastvhost.dataplane.ports.pcap import PcapError
from fastvhost.dataplane.ports.pcap_file import Player, Recorder
from fastvhost.dataplane.threads import Thread
from fastvhost.hostside.errors import HostPortError

T = TypeVar("T")

BURST = 64
IDLE_SECONDS = 0.1
"""The longest time in seconds until a thread notices a stop, where no frames arrive."""
OPEN_SECONDS = 2.0
"""Seconds that a start waits until a file is open. A file that takes longer is reported in the log."""
LEAVE_SECONDS = 0.2
"""Seconds that a stop waits for a thread that has nothing to write and may be waiting for its file."""


class PcapFileService:
    """Plays and records. A file is played once, or again and again with `loop`."""

    def __init__(
        self, port: Endpoint, *, played: str = "", recorded: str = "", loop: bool = False, timed: bool = False
    ) -> None:
        self._port = port
        self._played, self._recorded, self._loop, self._timed = played, recorded, loop, timed
        self._logbook = Logbook(port.name)
        self._player: Player | None = None
        self._threads: dict[str, threading.Thread] = {}
        self._go = threading.Event()
        self._stopping = threading.Event()
        self._start = 0.0
        self._frames = 0
        """Frames played in earlier rounds of a file that loops."""
        self._written = 0
        self._records = not recorded
        """Whether frames are taken: only once the file to record to is open."""
        self._failed = ""
        self.left_behind = False
        """Whether a thread still waits for its file after stop(). It uses nothing else, even if the file answers."""

    def open(self) -> None:
        """Open the files.

        Raises HostPortError for a file that cannot be played or written, if that is known within OPEN_SECONDS.
        """
        jobs = {"play": (self._run_player, self._played)} if self._played else {}
        jobs["record"] = (self._run_recorder, self._recorded)
        waited: list[tuple[str, Future[None]]] = []
        for name, (run, path) in jobs.items():
            opened: Future[None] = Future()
            thread = Thread(target=run, args=(opened,), name=f"{name} {self._port.name}", daemon=True)
            thread.start()
            self._threads[name] = thread
            waited.append((path, opened))
        deadline = time.monotonic() + OPEN_SECONDS
        for path, opened in waited:
            try:
                opened.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                if opened.cancel():
                    self._say(f"waiting for {path}, which does not answer", logging.WARNING)

    def start(self) -> None:
        """Play and record, until stop()."""
        self._start = time.monotonic()
        self._go.set()

    def withdraw(self) -> None:
        """The first step of a stop. Does nothing: there is no path here that another process could want."""

    def stop(self, timeout: float) -> None:
        """Write the frames that have arrived, close the files. Raises TimeoutError where that takes longer.

        A thread that waits for a file to be played is left behind.
        """
        leave_at = time.monotonic() + min(timeout, LEAVE_SECONDS)
        self._stopping.set()
        self._go.set()
        if self._player is not None:
            self._player.given_up = True
        if (recorder := self._threads.get("record")) is not None:
            recorder.join(timeout if self._records else min(timeout, LEAVE_SECONDS))
            if recorder.is_alive():
                if self._records or not timeout:
                    raise TimeoutError(f"{self._recorded} takes nothing, what arrived last is not in it")
                self.left_behind = True
        if (reader := self._threads.get("play")) is not None:
            reader.join(max(0.0, leave_at - time.monotonic()))
            if reader.is_alive():
                if not timeout:
                    raise TimeoutError(f"{self._played} does not answer")
                self.left_behind = True
        self._threads.clear()

    def describe(self) -> dict[str, Any]:
        """What `fastvhost show` tells."""
        player = self._player
        waits = bool(self._played) and not self._failed and "play" in self._threads and self._threads["play"].is_alive()
        state = "playing" if player is not None else f"waiting for {self._played}" if waits else "idle"
        return {
            "in": self._played or None,
            "out": self._recorded or None,
            "state": self._failed or state,
            "played": self._frames + (player.played if player is not None else 0),
            "recorded": self._written,
        }

    # The threads

    def _opened(self, kind: Callable[[str], T], path: str, remedy: str, opened: Future[None]) -> T | None:
        """Open a file. None: that failed, and the error went to `opened`, or, after open() gave up, to the log."""
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(Path(path).stat().st_mode) and opened.set_running_or_notify_cancel():
                self._say(f"waiting for {path}, a pipe")
                opened.set_result(None)
        try:
            file = kind(path)
        except Exception as error:
            reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
            refusal = HostPortError(f"pcap-file {path}: {reason}; {remedy}", "usage")
            if opened.done() or not opened.set_running_or_notify_cancel():
                self._fail(str(refusal))
            else:
                opened.set_exception(refusal)
            return None
        if not opened.done() and opened.set_running_or_notify_cancel():
            opened.set_result(None)
        return file

    def _fail(self, text: str) -> None:
        self._failed = text
        self._say(text, logging.ERROR)

    def _run_player(self, opened: Future[None]) -> None:
        player = self._opened(Player, self._played, "give a capture file that can be read", opened)
        if player is None:
            return
        self._say(f"playing {self._played}")
        try:
            while player is not None:
                player = self._play_through(player)
        except EndpointClosedError:
            pass
        except Exception as error:
            logging.getLogger("fastvhost").debug("port %s", self._port.name, exc_info=error)
            self._fail(f"playing {self._played} has ended: internal error {type(error).__name__}: {error}")

    def _play_through(self, player: Player) -> Player | None:
        """Play until the end of the file, or a stop. Returns the player to go on with, None for none."""
        self._player = player
        self._go.wait()
        start = time.monotonic()
        try:
            while not (player.ended or self._stopping.is_set()):
                elapsed = int((time.monotonic() - start) * 1e6) if self._timed else -1
                if not player.play(self._port, BURST, elapsed) and not player.ended:
                    self._stopping.wait(self._pause(player, start))
        finally:
            self._frames += player.played
            self._player = None
            player.close()
        if self._stopping.is_set():
            return None
        if self._loop and self._frames:
            try:
                return Player(self._played)
            except PcapError as error:
                self._fail(f"cannot play again: {error}")
                return None
        skipped = f", {player.skipped} skipped" if player.skipped else ""
        self._say(f"{self._played} has ended, {self._frames} frames played{skipped}")
        return None

    def _pause(self, player: Player, start: float) -> float:
        """Seconds until the next frame can be sent."""
        if not self._timed:
            return 0.001  # all buffers are in use
        due = player.next_us() / 1e6 - (time.monotonic() - start)
        return min(IDLE_SECONDS, max(0.0, due))

    def _run_recorder(self, opened: Future[None]) -> None:
        recorder: Recorder | None = None
        if self._recorded:
            recorder = self._opened(Recorder, self._recorded, "give a place that can be written", opened)
            if recorder is None:
                return
            self._records = True
            self._say(f"recording to {self._recorded}")
        else:
            opened.set_result(None)
        self._go.wait()
        said: set[str] = set()
        while True:
            last = self._stopping.is_set()
            try:
                if not self._record(recorder):
                    if last:
                        break
                    self._port.wait(IDLE_SECONDS)
            except EndpointClosedError:
                if last:
                    break
                self._stopping.wait(IDLE_SECONDS)
            except Exception as error:
                # The next burst may work; this is logged once.
                if last:
                    break
                if type(error).__name__ not in said:
                    said.add(type(error).__name__)
                    self._say(f"recording: internal error {type(error).__name__}: {error}; going on", logging.ERROR)
                self._stopping.wait(IDLE_SECONDS)
        if recorder is not None:
            recorder.close()

    def _record(self, recorder: Recorder | None) -> int:
        if recorder is None:
            with self._port.recv(BURST, 0) as burst:
                return len(burst)
        recorded = recorder.record(self._port, BURST)
        self._written += recorded
        if not recorded and not recorder.flush() and not self._failed:
            self._fail(f"{self._recorded} cannot be written; make room on its disk")
        return recorded

    def _say(self, text: str, level: int = logging.INFO) -> None:
        self._logbook.write(Line(level, text, "file"))
