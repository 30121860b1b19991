"""An Ethernet switch: where frames go, and what is delivered. IEEE 802.1Q, clauses 8.6 to 8.8."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, NetDriver, Piece
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, GuestPort

FORMATS = {"split": 0, "packed": F_RING_PACKED}
EVERYBODY = b"\xff" * 6


def mac(number: int) -> bytes:
    return b"\x52\x54\x00\x00\x00" + bytes([number])


def ethernet(destination: bytes, source: bytes, payload: bytes = b"p" * 46) -> bytes:
    return destination + source + b"\x08\x00" + payload


def send_in_pieces(driver: NetDriver, frame: bytes, pieces: tuple[int, ...]) -> None:
    """pieces: bytes of each of the chain's buffers but the last one; the virtio-net header is the first 12."""
    data = driver.header() + frame
    address = driver.memory.take(len(data))
    driver.memory.write(address, data)
    ends = [*itertools.accumulate(pieces), len(data)]
    chain = [Piece(address + begin, end - begin) for begin, end in itertools.pairwise([0, *ends])]
    driver.transmitq.make_available(driver.transmitq.chain(chain))


class Hub:
    """Guests at the ports of a switch."""

    def __init__(self, n: int, features: int) -> None:
        door = Door()
        self.guests = [GuestPort(door, f"p{i}", Memory.of(8 * MIB), 256, features) for i in range(n)]
        ports = tuple(guest.port for guest in self.guests)
        self.table = ForwardingTable(ports=n)
        self.worker = Worker(door)
        bridge = Bridge(ports, self.table)
        for port in ports:
            self.worker.add_wire(port, None, hold=False, hold_timeout_ms=1, bridge=bridge)
        for guest in self.guests:
            guest.connect()
            guest.driver.post(64)

    def settle(self) -> None:
        for _ in range(100):
            if not self.worker.step():
                return
        raise AssertionError("still moving frames")

    def arrived(self, guest: int) -> list[bytes]:
        return self.guests[guest].driver.receive_all()

    def close(self) -> None:
        self.worker.close()
        for guest in self.guests:
            guest.close()


@contextlib.contextmanager
def hub(n: int = 4, features: int = F_VERSION_1 | RING_F_INDIRECT_DESC) -> Iterator[Hub]:
    made = Hub(n, features)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("ring", FORMATS.values(), ids=FORMATS.keys())
def test_a_frame_for_an_unknown_address_reaches_all_but_its_sender_and_the_answer_one(ring: int) -> None:
    with hub(features=F_VERSION_1 | NET_F_MRG_RXBUF | ring) as h:
        first, answer = ethernet(mac(1), mac(0)), ethernet(mac(0), mac(1))
        h.guests[0].driver.send(first)
        h.settle()
        assert [h.arrived(i) for i in range(4)] == [[], [first], [first], [first]]
        h.guests[1].driver.send(answer)
        h.settle()
        assert [h.arrived(i) for i in range(4)] == [[answer], [], [], []]
        h.guests[0].driver.send(first)
        h.settle()
        assert [h.arrived(i) for i in range(4)] == [[], [first], [], []]


@pytest.mark.parametrize("ring", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("pieces", [(), (12, 1, 13), (12 + 14,), (3, 9, 5, 7)], ids=str)
def test_frames_of_a_burst_go_each_where_it_belongs_in_their_order(ring: int, pieces: tuple[int, ...]) -> None:
    with hub(features=F_VERSION_1 | NET_F_MRG_RXBUF | RING_F_INDIRECT_DESC | ring) as h:
        for i in range(4):
            h.guests[i].driver.send(ethernet(EVERYBODY, mac(i)))
        h.settle()
        for i in range(4):
            assert len(h.arrived(i)) == 3
        sent: dict[int, list[bytes]] = {i: [] for i in range(4)}
        for n in range(48):
            to = (1, 2, 3, 2, 1)[n % 5]
            one = ethernet(EVERYBODY if n % 7 == 0 else mac(to), mac(0), bytes([n]) * 46)
            for other in (1, 2, 3) if n % 7 == 0 else (to,):
                sent[other].append(one)
            send_in_pieces(h.guests[0].driver, one, pieces)
        h.settle()
        for other in (1, 2, 3):
            got = h.arrived(other)
            assert sorted(got) == sorted(sent[other])
            for group in (True, False):
                assert [f for f in got if (f[:6] == EVERYBODY) == group] == [
                    f for f in sent[other] if (f[:6] == EVERYBODY) == group
                ]
        assert h.arrived(0) == []
