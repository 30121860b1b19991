"""DPDK's testpmd as two guests on virtio-user devices: frames that one receives, the other sends, again and again.

Its driver needs more time per frame than any back-end here, so it shows how a back-end works with a slow driver.
Takes the same turns as bench/turns.py; figures are testpmd's own, "since last show".
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time

from bench.backends import BackEnd, BackEndError
from bench.turns import SETTLE_SECONDS
from fastvhost.control.children import dying_with_us

ANSWER_SECONDS = 20.0
PROMPT = "testpmd> "
RATE = re.compile(r"Rx-pps:\s+(\d+)")
RECEIVED = re.compile(r"RX-packets:\s+(\d+)")
RING_SIZE = 256
BURSTS = 32
DEVICE_WORDS = {"packed": "packed_vq=1", "in-order": "in_order=1"}
"""Options of the devices for a word of a back-end's name, as in fastvhost@packed."""


class VirtioUserPair:
    """A back-end and testpmd as its guests, which run only during their turns."""

    def __init__(self, back_end: BackEnd, size: str, options: str, core: int) -> None:
        self.back_end = back_end
        self._running = True
        self._said = ""
        self._more = threading.Condition()
        device = ",".join([options, *(DEVICE_WORDS[word] for word in back_end.words if word in DEVICE_WORDS)])
        devices = [
            f"--vdev=net_virtio_user{i},path={path},queues=1,queue_size={RING_SIZE},{device}"
            for i, path in enumerate((back_end.a, back_end.b))
        ]
        self._guests = subprocess.Popen(
            dying_with_us([
                # --no-huge: memory from one memfd. stdbuf: output is not delayed.
                "stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{core},1@{core}", "--main-lcore", "0", "--no-pci",
                "--no-telemetry", "--no-huge", "--no-shconf", "-m", "256", *devices, "--",
                "-i", "--forward-mode=io", "--total-num-mbufs=16384", f"--txd={RING_SIZE}", f"--rxd={RING_SIZE}",
            ]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=back_end._log, text=True, bufsize=1,
            start_new_session=True, env={**os.environ, "RUNTIME_DIRECTORY": str(back_end.directory)},
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self._size = size

    def _read(self) -> None:
        assert self._guests.stdout is not None
        while text := os.read(self._guests.stdout.fileno(), 65536):
            with self._more:
                self._said += text.decode(errors="replace")
                self._more.notify_all()

    def _answer(self, command: str | None) -> str:
        """Type a command. Returns testpmd's output up to its next prompt."""
        with self._more:
            if command is not None:
                self._said = ""
                assert self._guests.stdin is not None
                self._guests.stdin.write(f"{command}\n")
                self._guests.stdin.flush()
            if not self._more.wait_for(lambda: PROMPT in self._said, ANSWER_SECONDS):
                raise BackEndError(f"{self.back_end.name}: testpmd, as guests, does not answer; {self._said[-300:]!r}")
            return self._said

    def await_traffic(self) -> None:
        """Start the traffic, and wait until frames go round."""
        self._answer(None)
        self._answer(f"set txpkts {self._size}")
        self._answer(f"start tx_first {BURSTS}")
        deadline = time.monotonic() + ANSWER_SECONDS
        while not sum(map(int, RECEIVED.findall(self._answer("show port stats all")))):
            if time.monotonic() > deadline:
                raise BackEndError(f"{self.back_end.name}: no traffic; {self.back_end.end_of_log()}")
            time.sleep(0.1)

    def signal(self, what: signal.Signals) -> None:
        pids = [*self.back_end.pids, self._guests.pid]
        for pid in pids if what == signal.SIGSTOP else reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)
        self._running = what == signal.SIGCONT

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> list[dict[str, float]]:
        """Run for a while. Returns one window: the rate between two readings."""
        self.signal(signal.SIGCONT)
        time.sleep(SETTLE_SECONDS)
        self._answer("show port stats all")
        time.sleep(seconds)
        rate = sum(map(int, RATE.findall(self._answer("show port stats all"))))
        self.freeze()
        return [{"d": seconds, "frames": rate * seconds}]

    def finish(self) -> None:
        """Stop the guests. Idempotent."""
        if self._guests.poll() is not None:
            return
        if not self._running:
            self.signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            assert self._guests.stdin is not None
            self._guests.stdin.write("stop\nquit\n")
            self._guests.stdin.close()
        try:
            self._guests.wait(10)
        except subprocess.TimeoutExpired:
            self._guests.kill()
            self._guests.wait()
