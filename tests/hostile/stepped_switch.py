"""An arena of four ports of a switch: port a, which is attacked, its peer at port b, and two more guests, c and d.

What the attacker and its peer send is for an address that nobody has, so everybody gets it. What c and d send to each
other nobody else gets, whatever the attacker sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.forwarding_table import ForwardingTable
from tests.driver import Region
from tests.frontend import FEATURES, Guest
from tests.hostile.arena import check_bystander
from tests.hostile.invariant import Broken
from tests.hostile.rings import FORMATS
from tests.hostile.scene import Scene
from tests.hostile.stepped_scene import BYSTANDER_BYTES, PortArena, run_on

ADDRESSES = {"c": b"\2\0\0\0\0\x0c", "d": b"\2\0\0\0\0\x0d"}
PAYLOAD = b"\x88\xb5" + bytes(46)


class SwitchArena(PortArena):
    """Guests c and d are known before the attack, and talk after it."""

    names = "abcd"
    holds = False
    """What is flooded, as most frames of the attacks are, does not wait."""
    addresses = 65536
    """That the forwarding table is made for."""

    def __init__(self, beside: str = "split") -> None:
        super().__init__(beside)
        self.others = {name: self._other(name, beside) for name in ADDRESSES}
        for name in ADDRESSES:
            self._send(name, b"\xff" * 6)
        self.rounds()
        for guest in (self.victim, *self.others.values()):
            guest.net.receive_all()

    def join(self, hold_timeout_ms: int) -> None:
        """What is for one port waits for room in a backlog."""
        self.table = ForwardingTable(addresses=self.addresses, ports=4)
        bridge = Bridge(tuple(self.ports.values()), self.table)
        for port in self.ports.values():
            self.worker.add_wire(port, None, hold=True, hold_timeout_ms=hold_timeout_ms, bridge=bridge)

    def _other(self, name: str, beside: str) -> Guest:
        own, memory = FORMATS[beside], self.memory([Region(0x10000, BYSTANDER_BYTES, name="bystander")], name)
        queues: list[Any] = [own.queue(memory, 256) for _ in range(2)]
        guest = Guest(self.connect(name), memory, *queues, features=FEATURES | own.features, polled=True)
        guest.net.post(64)
        return guest

    def _send(self, name: str, destination: bytes) -> bytes:
        frame = destination + ADDRESSES[name] + PAYLOAD
        self.others[name].net.send(frame)
        return frame

    def _came_out(self) -> Counter[str]:
        """Frames that left at each port."""
        return Counter({name: port.counters().tx_frames for name, port in self.ports.items()})

    def talk(self) -> None:
        """c and d reach each other, and nobody else gets that."""
        self.rounds()
        for guest in self.others.values():
            guest.net.receive_all()
        for sender, receiver in ("cd", "dc"):
            before = self._came_out()
            frame = self._send(sender, ADDRESSES[receiver])
            self.rounds()
            if (got := self.others[receiver].net.receive_all()) != [frame]:
                raise Broken("I2", f"of a frame from {sender} to {receiver} arrived: {got}")
            if (out := self._came_out() - before) != Counter(receiver):
                raise Broken("I7", f"a frame from {sender} to {receiver} left at these ports: {dict(out)}")

    def check(self) -> None:
        self.talk()
        for guest in self.others.values():
            check_bystander(guest, self.max_wait)
        super().check()

    def close(self) -> None:
        super().close()
        for guest in self.others.values():
            guest.close()


def run_at_a_switch(act: Callable[[Scene], object], ring: str) -> None:
    """One attack on a port of a switch, where everyone has rings of this format. Raises Broken."""
    run_on(SwitchArena(ring), act, ring)
