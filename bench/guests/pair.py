"""Two QEMU guests with a forwarder between them: the main job."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from bench.guests.fwd import Fwd
from bench.guests.qemu import Guest, Machine, Options

HOLDS = ["--hold-timeout", "10s"]
"""So that a guest without a CPU for a while loses no frames."""


class Pair:
    """fwd with ports a and b, and a guest on each. Any of the three can be replaced while it runs."""

    def __init__(
        self, directory: Path, a: Options | None = None, b: Options | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """a, b: changes to the guests' defaults. prefix: a command that runs the first fwd."""
        self.directory = directory
        self.machines = (
            Machine("a", directory / "a.sock", 1, **(a or {})),
            Machine("b", directory / "b.sock", 2, **(b or {})),
        )
        self._ports = [machine.port for machine in self.machines]
        with contextlib.ExitStack() as stack:
            self.fwd = stack.enter_context(Fwd(directory, self._ports, HOLDS, prefix))
            self.a, self.b = (stack.enter_context(Guest(machine, directory)) for machine in self.machines)
            self.a.wait_ready()
            self.b.wait_ready()
            stack.pop_all()

    def start_fwd(self) -> Fwd:
        """Start the forwarder again, after its end."""
        self.fwd = Fwd(self.directory, self._ports, HOLDS)
        return self.fwd

    def start_guest(self, old: Guest) -> Guest:
        """Start a guest again, after its end."""
        guest = Guest(old.machine, self.directory)
        if old is self.a:
            self.a = guest
        else:
            self.b = guest
        return guest

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.a, self.b, self.fwd):
            process.stop()
