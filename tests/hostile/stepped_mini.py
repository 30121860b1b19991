"""The broken mini back-end without processes and threads, and with a clock of its own: no wait takes any time.

What an attack comes to with a bug is found in a process of its own, since some bugs end it, and some never come to an
end: that one has a limit of CPU time and of memory.
"""

from __future__ import annotations

import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench import conservation
from tests.driver import Timeout
from tests.frontend import Closed, Frontend, Refused
from tests.hostile.attack import Attack
from tests.hostile.broken import bugs, mini
from tests.hostile.broken.ring import Fault, Illegal
from tests.hostile.invariant import Broken
from tests.hostile.stepped_scene import SteppedArena, run_on

MAX_WAIT = 1.0
"""Seconds of that clock. Held frames are dropped after 0.1."""
ROUND = 0.001
"""Seconds of that clock for each round of the worker."""
MOST_CPU_SECONDS, MOST_BYTES = 1, 128 << 20
"""For one attack, beyond what the process has when it begins. Without a bug it takes 0.1 s at the most."""


class Clock:
    """What time.monotonic and time.sleep are in that process."""

    def __init__(self) -> None:
        self.now = 0.0

    def start(self) -> None:
        time.monotonic, time.sleep = lambda: self.now, self.sleep

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class MiniFrontend(Frontend):
    """One connection: each message is handled where it is sent."""

    def __init__(self, port: mini.Port) -> None:
        self._port = port
        self.features = self.protocol_features = 0
        self.reply_ack = False
        self._port.conn = self._port.listener  # what it closes when the connection ends

    def _handled(self, request: int, payload: bytes, fds: Sequence[int]) -> bytes | None:
        self._port.arrived = [os.dup(fd) for fd in fds]
        try:
            reply: bytes | None = getattr(self._port, mini.HANDLERS[request][0])(payload)
        except Illegal as error:
            raise Refused(str(error)) from error
        except Fault as error:
            raise Closed(str(error)) from error
        finally:
            for fd in self._port.arrived:
                os.close(fd)
        return reply

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        reply = self._handled(request, payload, fds)
        assert reply is not None
        return reply

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        self._handled(request, payload, fds)

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), **_: Any) -> None:
        self._handled(request, payload, fds)

    def close(self) -> None:
        self._port.disconnect("end of file")


class MiniArena(SteppedArena):
    """Two of its ports."""

    def __init__(self, beside: str, clock: Clock) -> None:
        self._clock = clock
        self._ports = {name: mini.Port(name) for name in "ab"}
        self._ports["a"].peer, self._ports["b"].peer = self._ports["b"], self._ports["a"]
        super().__init__(beside)
        self.max_wait = MAX_WAIT

    def connect(self, port: str) -> Any:
        return MiniFrontend(self._ports[port])

    def go_round(self) -> None:
        self._clock.now += ROUND
        for port in self._ports.values():
            try:
                port.forward()
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                raise Broken("I1", f"the process ends: {error!r}") from error
            if port.faulted:
                port.disconnect("its memory became shorter")

    def why(self, port: str, index: int) -> None:  # noqa: ARG002
        return None

    def drops(self) -> Counter[str]:
        return sum((port.drops + port.refused for port in self._ports.values()), Counter[str]())

    def check_frames(self) -> None:
        try:
            conservation.check_pair(lambda: {"ports": mini.counters(self._ports.values())}, "a", "b", seconds=0.0)
        except AssertionError as error:
            raise Broken("C", str(error)) from error


def outcome(bug: str, attack: Attack, ring: str, beside: str) -> str:
    """The invariant that this attack showed to be broken, in a process of its own; "" where nothing was noticed.

    Raises RuntimeError where that process had an error that is no answer.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.write(writing, in_child(bug, attack, ring, beside).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "I9" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "I1"
    if said.startswith("error"):
        raise RuntimeError(said)
    return said


def in_child(bug: str, attack: Attack, ring: str, beside: str) -> str:
    """What `outcome` says; this process ends when it is said."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(nowhere, standard)  # the log of that back-end
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, size + MOST_BYTES))
    if bug:
        bugs.chosen.add(bug)
    clock = Clock()
    clock.start()
    try:
        run_on(MiniArena(beside, clock), attack.run, ring)
    except Broken as broken:
        return broken.invariant
    except (Timeout, TimeoutError, Closed, Refused):
        return "reaction"
    except MemoryError:
        return "I9"
    except BaseException:
        return "error: " + traceback.format_exc()
    return ""
