"""Random changes of ports and wires under traffic: nothing breaks or leaks, a pair that is left alone loses nothing.

Guests at a and b flood each other, and nobody touches them. Guests at c and d do, while their wires change.
Ports come and go; one of them has a guest each time, which is cut off while it sends.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import control_client
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.driver.guests import Guests, PairSettings
from tests.conftest import endurance
from tests.frontend import Guest
from tests.unit.forwarder import Forwarder, forwarder

pytestmark = pytest.mark.alone

OPERATIONS = 200
LONG_OPERATIONS = 10_000
HOLDS = ("--on-full", "hold", "--hold-timeout", "600s")
COMERS = ("v", "w", "x", "y", "z")
STAY = ("a", "b", "c", "d")
NOTIFIER_EVENTFDS = 3
"""Of a port with one queue pair, in the thread that notifies its guest."""
GROWTH = 4 << 20
"""Bytes of resident memory by which a fwd may grow while it stays the same: its allocator keeps some."""


class Changer:
    """Makes random changes, and knows what must come of each."""

    def __init__(self, fwd: Forwarder, seed: int) -> None:
        self._fwd = fwd
        self._random = random.Random(seed)
        self._wires: dict[str, str] = {}
        self._there: set[str] = {"c", "d"}
        self._guest: Guest | None = None
        self.done = 0

    def ask(self, command: str, **request: str) -> None:
        """Again where the worker had no CPU for so long that nothing was changed."""

        def answered() -> bool:
            try:
                control_client.ask(str(self._fwd.directory / "control.sock"), command, seconds=MAX_WAIT, **request)
            except RuntimeFailure as error:
                if "does not come to the door" not in str(error):
                    raise
                return False
            return True

        wait_until("a worker that comes to the door", 2 * MAX_WAIT, answered)
        self.done += 1

    def refused(self, command: str, **request: str) -> None:
        with pytest.raises(UsageError):
            self.ask(command, **request)
        self.done += 1

    def change(self) -> None:
        """One random change, or one that is refused."""
        name = self._random.choice(COMERS)
        left, right = self._random.sample(sorted(self._there), 2)
        match self._random.choice(("port", "port", "wire", "wire", "wire", "wrong")):
            case "port" if name in self._there:
                self.remove(name)
            case "port":
                self.ask("port-add", spec=str(self._fwd.directory / f"{name}.sock"))
                self._there.add(name)
                if name == "z":
                    self._guest = Guest.boot(self._fwd.directory / "z.sock", receive_buffers=16)
            case "wire" if left in self._wires:
                self.unwire(left)
            case "wire" if right in self._wires:
                self.unwire(right)
            case "wire":
                self.ask("wire-add", wire=f"{left}:{right}")
                self._wires |= {left: right, right: left}
            case _:
                self.refused("wire-add", wire=f"a:{left}")
                self.refused("port-add", spec=str(self._fwd.directory / "a.sock"))

    def unwire(self, name: str) -> None:
        self.ask("wire-del", wire=f"{name}:{self._wires[name]}")
        del self._wires[self._wires.pop(name)]

    def remove(self, name: str) -> None:
        if name == "z" and self._guest is not None:
            for number in range(8):
                self._guest.net.send(bytes([number]) * 60)
        self.ask("port-del", name=name)
        self._there.remove(name)
        if name in self._wires:
            del self._wires[self._wires.pop(name)]
        if name == "z" and self._guest is not None:
            assert self._guest.frontend.wait_closed()
            self._guest.close()
            self._guest = None

    def restore(self) -> None:
        """Only c and d are there beside a and b, and joined."""
        for name in sorted(self._there - {"c", "d"}):
            self.remove(name)
        if "c" not in self._wires:
            self.ask("wire-add", wire="c:d")
            self._wires |= {"c": "d", "d": "c"}


class Held:
    """What a process holds."""

    def __init__(self, pid: int) -> None:
        proc = Path(f"/proc/{pid}")
        files = []
        for file in (proc / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                files.append(str(file.readlink()))
        self.eventfds = files.count("anon_inode:[eventfd]")
        self.files = len(files) - self.eventfds
        self.threads = len(list((proc / "task").iterdir()))
        maps = (proc / "maps").read_text().splitlines()
        self.foreign = sum("memfd:" in line or "/dev/shm" in line or ".state" in line for line in maps)
        """Mappings of files of guests, and of records."""
        self.resident = int(re.search(r"VmRSS:\s+(\d+) kB", (proc / "status").read_text())[1]) << 10  # type: ignore[index]

    def is_no_more_than(self, before: Held) -> bool:
        """But for the threads that notify guests: a port starts its own when it first needs it."""
        return (
            self.files <= before.files
            and self.foreign <= before.foreign
            and self.threads <= before.threads + len(STAY)
            and self.eventfds <= before.eventfds + NOTIFIER_EVENTFDS * len(STAY)
        )


@contextlib.contextmanager
def flood(fwd: Forwarder, left: str, right: str) -> Iterator[Guests]:
    sockets = (str(fwd.directory / f"{name}.sock") for name in (left, right))
    guests = Guests(*sockets, PairSettings(sleeps=True))
    guests.start()
    try:
        yield guests
    finally:
        guests.stop()


def test_random_changes_under_traffic_break_nothing_leak_nothing_and_leave_other_ports_alone(
    pytestconfig: pytest.Config,
) -> None:
    operations = LONG_OPERATIONS if endurance(pytestconfig) > 1 else OPERATIONS
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # shown where it fails
    with forwarder(*HOLDS, "--wire", "a:b", ports=tuple(f"{name}.sock" for name in STAY)) as fwd:
        changer = Changer(fwd, seed)
        told = len(fwd.warnings)  # that c and d have no wire
        with flood(fwd, "a", "b") as alone, flood(fwd, "c", "d"):
            before: Held | None = None
            while changer.done < operations:
                changer.change()
                if before is None and changer.done > operations // 4:
                    changer.restore()
                    before = Held(fwd.process.pid)
            frames = alone.counters().frames
            wait_until("frames of the pair left alone", MAX_WAIT, lambda: alone.counters().frames > frames)
            changer.restore()
            assert before is not None
            wait_until("no file, thread or mapping is left", MAX_WAIT,
                       lambda: Held(fwd.process.pid).is_no_more_than(before))  # fmt: skip
            assert Held(fwd.process.pid).resident - before.resident < GROWTH
            final = alone.stop()
        assert (final.lost, final.corrupt, final.reordered, final.duplicated) == (0, 0, 0, 0)
        assert final.frames > 0
        stats = fwd.stats()["ports"]
        assert [sum(stats[name][f"{way}_dropped"].values()) for name in "ab" for way in ("rx", "tx")] == [0] * 4
        assert [line for line in fwd.warnings[told:] if "door" not in line and "stays mapped" not in line] == []
        assert fwd.end()[0] == 0
