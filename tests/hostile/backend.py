"""The back-end under test as a process: started, asked for statistics, and looked at from outside through /proc."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.guests.waits import MAX_WAIT
from fastvhost.control import fwd_process
from tests.holdings import helpers, open_files
from tests.hostile.broken.mini import main
from tests.hostile.forked import Forked
from tests.hostile.invariant import Broken
from tests.own_time import OwnTime, schedstat

PORTS = "abcdefghijkl"
"""a and b: the attacked guest and its peer. c and d: the honest stream. e and f: fresh connections during an attack.

g and h: the honest flood. i and j: an attacker that is both ends, with queue pairs as many as there may be.
k and l: an attacker with a control queue that is ours, and a device of which there is something to tell.
"""
KEYS = dict.fromkeys(PORTS, "") | dict.fromkeys("ij", "queues=128") | {"l": "queues=2"}
KEYS["k"] = "queues=2,mac=52:54:00:00:00:0b,mtu=9000"
"""Of each port, wired to its peer."""
END_SECONDS = 2.0
"""From SIGTERM to its end, and from a new start to the first frame."""


Starter = Callable[[list[str], Path], "subprocess.Popen[bytes] | Forked"]


def fastvhost(arguments: list[str], log_path: Path) -> subprocess.Popen[bytes]:
    """The product."""
    command, environment = fwd_process.command(*arguments), fwd_process.environment()
    with log_path.open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def mini(*bugs: str) -> Starter:
    """The mini back-end, with bugs or without."""
    switches = [word for bug in bugs for word in ("--bug", bug)]
    return lambda arguments, log_path: Forked(main, [*switches, *arguments], log_path)


class Backend:
    """A running `fwd` with twelve ports in pairs: a-b, c-d, e-f, g-h, i-j, k-l, and what else it is given."""

    def __init__(
        self, start: Starter, more: Sequence[str] = (), *, forward: str = "patch", keys: Mapping[str, str] = KEYS
    ) -> None:
        """`more`: words behind its command line. `forward`: how it forwards. `keys`: of each port."""
        self.directory = Path(tempfile.mkdtemp(prefix="fv-", dir=tempfile.gettempdir()))
        self.log_path = self.directory / "log"
        self.control = self.directory / "control"
        self._arguments = ["fwd", "--forward", forward, "--control", str(self.control)]
        for name in PORTS:
            self._arguments += ["--port", ",".join(filter(None, [str(self.path(name)), keys[name]]))]
        self._arguments += [word.replace("DIRECTORY", str(self.directory)) for word in more]
        self._start = start
        self.start()

    def start(self) -> None:
        """Again, on the same paths, when it has ended."""
        self.process = self._start(self._arguments, self.log_path)
        self._proc = Path(f"/proc/{self.process.pid}")

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def wait_listening(self, timeout: float = MAX_WAIT) -> None:
        deadline = time.monotonic() + timeout
        while not (self.control.exists() and all(self.path(name).exists() for name in PORTS)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the back-end does not start: {self.log()}")
            time.sleep(0.01)

    def end_by(self, number: int, seconds: float = END_SECONDS) -> None:
        """It ends by this signal in time: what others kept it from a CPU for is not counted. Raises Broken."""
        own = self.own_time()
        os.kill(self.process.pid, number)
        while self.process.poll() is None:
            if own.seconds > seconds:
                states = ", ".join(sorted(self.thread_states().values()))
                raise Broken("end", f"signal {number} did not end it within {seconds:g} s; its threads: {states}")
            time.sleep(0.002)

    def stop(self) -> None:
        """End it as an operator would, or the hard way if that does not help."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.wait(MAX_WAIT) is not None:
                return
        self.process.kill()
        self.process.wait()

    # From inside

    def statistics(self, timeout: float) -> Any:
        """What `fastvhost stats --json` asks for, from the same socket. Raises OSError."""
        return self._ask("stats", timeout)

    def notified_by_threads(self, timeout: float) -> set[str]:
        """Ports whose drivers a thread of that port notifies, since this host takes long to. Raises OSError."""
        ports = self._ask("show", timeout)
        if not isinstance(ports, list):
            return set()  # the mini back-end, which has no such threads
        threads = "a thread of this port"
        return {port["name"] for port in ports if str(port.get("notified_by", "")).startswith(threads)}

    def broken(self, port: str, queue: int, timeout: float) -> str | None:
        """Why a ring is broken, as `fastvhost show` says it; the mini back-end does not. Raises OSError."""
        ports = self._ask("show", timeout)
        if not isinstance(ports, list):
            return None
        rings = next(each["rings"] for each in ports if each["name"] == port)
        return next(str(ring["broken"]) for ring in rings if ring["index"] == queue)

    def _ask(self, command: str, timeout: float) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout)
            client.connect(str(self.control))
            client.sendall(json.dumps({"command": command}).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                if not (part := client.recv(65536)):
                    raise ConnectionError("the control socket closed")
                answer += part
        decoded = json.loads(answer)
        if not decoded["ok"]:
            raise ConnectionError(decoded["error"])
        return decoded["result"]

    # From outside

    def alive(self) -> bool:
        return self.process.poll() is None

    def log(self, start: int = 0) -> str:
        """What it has written so far, from this byte on."""
        with self.log_path.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def log_bytes(self) -> int:
        return self.log_path.stat().st_size

    def own_time(self) -> OwnTime:
        """Begins now: without what kept its threads and ours from a CPU."""
        return OwnTime(self.process.pid)

    def thread_seconds(self) -> dict[str, float]:
        """How long each of its threads has run."""
        return schedstat(self._proc, 0)

    def busy_seconds(self, task: str) -> float:
        """How long this thread has run, or was ready to."""
        return sum(schedstat(self._proc, field).get(task, 0.0) for field in (0, 1))

    def threads(self) -> int:
        return len(list((self._proc / "task").iterdir()))

    def thread_states(self) -> dict[str, str]:
        """What each of its threads is called, and its state: R, S, D. proc(5)"""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for task in (self._proc / "task").iterdir():
                with contextlib.suppress(OSError):
                    name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
                    found[task.name] = f"{name} {rest.split()[0]}"
        return found

    def helpers(self) -> list[int]:
        """Processes that it started, and theirs."""
        return helpers(self.process.pid)

    def helpers_descriptors(self) -> int:
        """What its helpers have open, all together."""
        found = 0
        for pid in self.helpers():
            with contextlib.suppress(OSError):  # it ended
                found += sum(open_files(Path(f"/proc/{pid}")).values())
        return found

    def descriptors(self) -> Counter[str]:
        """Open file descriptors by what they are: "socket", "anon_inode:[eventfd]", "/memfd:name", paths."""
        return open_files(self._proc)

    def mapped(self, name: str) -> list[str]:
        """The mappings of memfds with this name."""
        return [line for line in self.maps().splitlines() if f"/memfd:{name}" in line]

    def mappings(self) -> int:
        return len(self.maps().splitlines())

    def maps(self) -> str:
        """/proc/PID/maps: every mapping, a line each."""
        return (self._proc / "maps").read_text()

    def resident_bytes(self) -> int:
        return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
