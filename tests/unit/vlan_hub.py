"""A switch whose ports have VLANs, and a model of it, written from IEEE 802.1Q for the tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench import conservation
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, Piece
from tests.standstill import settle
from tests.unit.rig import MIB, GuestPort

TPID = b"\x81\0"
EVERYBODY = b"\xff" * 6
ALL_VLANS = tuple(range(4095))


class Keys(NamedTuple):
    """What Bridge.set_vlans takes."""

    native: int | None
    tagged: tuple[int, ...] | None


def access(vlan: int) -> Keys:
    return Keys(vlan, None)


def trunk(*vlans: int, native: int | None = None) -> Keys:
    return Keys(native, vlans)


NO_KEYS = Keys(0, ALL_VLANS)


def mac(number: int) -> bytes:
    return b"\x52\x54\0\0\0" + bytes([number])


def tag(vlan: int, priority: int = 0) -> bytes:
    return TPID + (priority << 12 | vlan).to_bytes(2, "big")


def ethernet(destination: bytes, source: bytes, tags: bytes = b"", payload: bytes = b"p" * 46) -> bytes:
    return destination + source + tags + b"\x88\xb5" + payload


class Model:
    """What arrives where, and what is dropped."""

    def __init__(self, ports: Sequence[Keys]) -> None:
        self.ports = ports
        self.seen: dict[tuple[int, bytes], int] = {}
        self.dropped: list[str] = []

    def send(self, port: int, frame: bytes) -> dict[int, bytes]:
        keys, vlan, priority, rest = self.ports[port], self.ports[port].native, 0, frame[12:]
        if rest[:2] == TPID:
            if len(rest) < 4:
                return self.drop("vlan_denied")
            told, rest = int.from_bytes(rest[2:4], "big"), rest[4:]
            priority = told >> 12
            if told & 0xFFF:
                vlan = told & 0xFFF
                if keys.tagged is None or vlan not in keys.tagged:
                    return self.drop("vlan_denied")
        if vlan is None:
            return self.drop("vlan_denied")
        if not frame[6] & 1:
            self.seen[vlan, frame[6:12]] = port
        others = [n for n, other in enumerate(self.ports) if n != port and is_member(other, vlan)]
        to = self.seen.get((vlan, frame[:6]))
        if to is not None and not frame[0] & 1:
            if to == port:
                return self.drop("same_port")
            others = [to]
        got: dict[int, bytes] = {}
        reason = "no_egress"
        for other in others:
            if self.ports[other].native != vlan:
                got[other] = frame[:12] + tag(vlan, priority) + rest
            elif frame[12:14] == TPID and (len(frame) < 18 or rest[:2] == TPID):
                reason = "vlan_denied"
            else:
                got[other] = frame[:12] + rest
        return got or self.drop(reason)

    def drop(self, reason: str) -> dict[int, bytes]:
        self.dropped.append(reason)
        return {}


def is_member(keys: Keys, vlan: int) -> bool:
    return vlan == keys.native or vlan in (keys.tagged or ())


class VlanHub:
    """Guests at the ports of a switch, each with its keys. None: those of a port that has none.

    accomplice: a guest that has the memory of guest 0, and no receive buffers yet; 0: none.
    hold_ms: how long frames wait for room; 0: none do. posted: receive buffers of each guest.
    """

    def __init__(
        self, ports: Sequence[Keys | None], features: int | Sequence[int], buffers: int, accomplice: int, hold_ms: int,
        posted: int,
    ) -> None:  # fmt: skip
        each = [features] * len(ports) if isinstance(features, int) else list(features)
        door = Door()
        memories = [Memory.of(32 * MIB) for _ in ports]
        if accomplice:
            memories[accomplice].close()
            memories[accomplice] = memories[0]
        self.guests = [GuestPort(door, f"p{i}", memories[i], 256, each[i]) for i in range(len(ports))]
        self.ports = [guest.port for guest in self.guests]
        self.worker = Worker(door)
        self.bridge = Bridge(tuple(self.ports), ForwardingTable(ports=len(ports)))
        for number, keys in enumerate(ports):
            if keys is not None:
                self.bridge.set_vlans(number, native=keys.native, tagged=keys.tagged)
        for port in self.ports:
            self.worker.add_wire(port, None, hold=hold_ms > 0, hold_timeout_ms=hold_ms, bridge=self.bridge)
        for number, guest in enumerate(self.guests):
            guest.connect()
            if not accomplice or number != accomplice:
                guest.driver.post(posted, buffers)

    def settle(self) -> None:
        settle(self.worker)

    def send(self, port: int, frame: bytes, header: bytes | None = None) -> dict[int, bytes]:
        """Send one frame. What arrives, by port."""
        self.guests[port].driver.send(frame, header)
        self.settle()
        got = {i: self.arrived(i) for i in range(len(self.ports))}
        assert all(len(frames) < 2 for frames in got.values())
        return {i: frames[0] for i, frames in got.items() if frames}

    def send_pieces(self, port: int, frame: bytes, cuts: Sequence[int]) -> None:
        """Make a frame available whose chain, header and all, is cut at these places."""
        driver = self.guests[port].driver
        data, pieces = driver.header() + frame, []
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            addr = driver.memory.take(end - begin)
            driver.memory.write(addr, data[begin:end])
            pieces.append(Piece(addr, end - begin))
        driver.transmitq.make_available(driver.transmitq.chain(pieces))

    def arrived(self, port: int) -> list[bytes]:
        return self.guests[port].driver.receive_all()

    def dropped(self, port: int) -> dict[str, int]:
        counters = self.ports[port].counters()
        return {reason: n for reason, n in counters.rx_dropped.items() if n}

    def close(self) -> None:
        conservation.check(self.worker, *self.ports)
        self.worker.close()
        for guest in self.guests:
            guest.close()


@contextlib.contextmanager
def vlan_hub(
    *ports: Keys | None, features: int | Sequence[int], buffers: int = 2048, accomplice: int = 0, hold_ms: int = 0,
    posted: int = 128,
) -> Iterator[VlanHub]:  # fmt: skip
    made = VlanHub(ports, features, buffers, accomplice, hold_ms, posted)
    try:
        yield made
    finally:
        made.close()
