"""Random changes of a running fwd, each with what must come of it: of ports and wires, or of a switch.

Ports come and go: v to z. z has a guest each time, which is cut off while it sends. Guests at c and d have traffic all
the time. Nobody changes a and b.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import control_client
from fastvhost.control.errors import FastvhostError, RuntimeFailure
from tests.frontend import Guest
from tests.unit.forwarder import Forwarder

COMERS = ("v", "w", "x", "y", "z")
TOUCHED = ("c", "d")
NOT_HELD = "does not come to the door"
Request = Mapping[str, object]


class Changer(ABC):
    """Makes random changes of a fwd with the ports a to d, and knows what must come of each."""

    def __init__(self, fwd: Forwarder, seed: int) -> None:
        self._fwd = fwd
        self.random = random.Random(seed)
        self.there = set(TOUCHED)
        """Ports that changes are made to."""
        self._guest: Guest | None = None
        self.done = 0
        """Operations, those that were refused among them."""

    @property
    @abstractmethod
    def kinds(self) -> Sequence[Callable[[], None]]:
        """What it does, each as often as it stands here."""

    @abstractmethod
    def spec_of(self, name: str) -> str:
        """The keys of a port that comes, with a comma in front."""

    @abstractmethod
    def frame(self, number: int) -> bytes:
        """One of those that the guest sends while it is cut off."""

    @abstractmethod
    def seen(self) -> Any:
        """The configuration as fwd tells it."""

    @abstractmethod
    def known(self) -> Any:
        """The same, by what was changed."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """A port is gone."""

    def change(self) -> None:
        """One random operation."""
        self.random.choice(self.kinds)()

    def ask(self, command: str, **request: object) -> Any:
        """Again where the worker had no CPU for so long that nothing was changed."""

        def answered() -> tuple[Any] | None:
            try:
                return (self._exchange(command, request),)
            except RuntimeFailure as error:
                if NOT_HELD not in str(error):
                    raise
                return None

        (answer,) = wait_until("a worker that comes to the door", 2 * MAX_WAIT, answered)
        self.done += 1
        return answer

    def tell(self, command: str, **request: object) -> Any:
        """What fwd tells without a change."""
        return self._exchange(command, request)

    def _exchange(self, command: str, request: Request) -> Any:
        return control_client.ask(str(self._fwd.directory / "control.sock"), command, seconds=MAX_WAIT, **request)

    def refused(self, command: str, **request: object) -> None:
        """A wrong request, which changes nothing."""
        with pytest.raises(FastvhostError):
            self.ask(command, **request)
        self.done += 1
        self.check()

    def check(self) -> None:
        assert self.seen() == self.known()

    def socket(self, name: str) -> str:
        return str(self._fwd.directory / f"{name}.sock")

    def port(self) -> None:
        """One that comes, or one that goes."""
        name = self.random.choice(COMERS)
        if name in self.there:
            self.remove(name)
            return
        self.ask("port-add", spec=self.socket(name) + self.spec_of(name))
        self.there.add(name)
        if name == "z":
            self._guest = Guest.boot(self.socket("z"), receive_buffers=16)

    def remove(self, name: str) -> None:
        guest, self._guest = (self._guest, None) if name == "z" else (None, self._guest)
        for number in range(8 if guest else 0):
            guest.net.send(self.frame(number))
        self.ask("port-del", name=name)
        self.there.remove(name)
        self.forget(name)
        if guest:
            assert guest.frontend.wait_closed()
            guest.close()

    def restore(self) -> None:
        """As it was at the start."""
        for name in sorted(self.there - set(TOUCHED)):
            self.remove(name)


class OfWires(Changer):
    """Of a fwd with --forward patch and the wire a:b."""

    def __init__(self, fwd: Forwarder, seed: int) -> None:
        super().__init__(fwd, seed)
        self._wires: dict[str, str] = {}

    @property
    def kinds(self) -> Sequence[Callable[[], None]]:
        return self.port, self.port, self.wire, self.wire, self.wire, self.wrong

    def spec_of(self, _: str) -> str:
        return ""

    def frame(self, number: int) -> bytes:
        return bytes([number]) * 60

    def seen(self) -> dict[str, str | None]:
        return {port["name"]: port["wired_to"] for port in self.tell("show")}

    def known(self) -> dict[str, str | None]:
        return {"a": "b", "b": "a", **{name: self._wires.get(name) for name in self.there}}

    def wire(self) -> None:
        """One that comes, or goes."""
        left, right = self.random.sample(sorted(self.there), 2)
        for end in (left, right):
            if end in self._wires:
                self.ask("wire-del", wire=f"{end}:{self._wires[end]}")
                self.forget(end)
                return
        self._join(left, right)

    def _join(self, left: str, right: str) -> None:
        self.ask("wire-add", wire=f"{left}:{right}")
        self._wires |= {left: right, right: left}

    def wrong(self) -> None:
        self.refused("wire-add", wire=f"a:{self.random.choice(sorted(self.there))}")
        self.refused("port-add", spec=self.socket("a"))

    def forget(self, name: str) -> None:
        if name in self._wires:
            del self._wires[self._wires.pop(name)]

    def restore(self) -> None:
        super().restore()
        if "c" not in self._wires:
            self._join("c", "d")
