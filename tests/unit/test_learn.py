"""An Ethernet switch: where frames go, and what is delivered. IEEE 802.1Q, clauses 8.6 to 8.8."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from bench import conservation
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, NetDriver, Piece
from tests.probes import delivery_locks
from tests.unit.rig import (
    F_RING_PACKED,
    F_VERSION_1,
    MIB,
    NET_F_MRG_RXBUF,
    RING_F_INDIRECT_DESC,
    GuestPort,
    mapped,
)

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
    """Guests at the ports of a switch. hold_ms: how long frames wait for room; 0: none do."""

    def __init__(
        self, n: int, features: int | Sequence[int], workers: int = 1, posted: int = 64, *,
        addresses: int = 65536, size: int = 256, hold_ms: int = 0, idle: str = "poll",
    ) -> None:  # fmt: skip
        self.door = door = Door()
        each = [features] * n if isinstance(features, int) else features
        self.guests = [GuestPort(door, f"p{i}", Memory.of(8 * MIB), size, its) for i, its in enumerate(each)]
        ports = tuple(guest.port for guest in self.guests)
        self.table = ForwardingTable(ports=n, addresses=addresses)
        self.workers = [Worker(door, f"worker{i}", idle=idle) for i in range(workers)]
        self.bridge = Bridge(ports, self.table)
        self.wires = [
            worker.add_wire(port, None, hold=hold_ms > 0, hold_timeout_ms=hold_ms, bridge=self.bridge)
            for port, worker in zip(ports, itertools.cycle(self.workers))  # each port's frames have one worker
        ]
        for guest in self.guests:
            guest.connect()
            guest.driver.post(posted)

    def settle(self) -> None:
        for _ in range(100):
            if not sum(worker.step() for worker in self.workers):
                return
        raise AssertionError("still moving frames")

    def arrived(self, guest: int) -> list[bytes]:
        return self.guests[guest].driver.receive_all()

    def close(self) -> None:
        counted = [guest.port.counters() for guest in self.guests]
        came = sum(one.rx_frames + one.copies for one in counted)
        gone = sum(one.tx_frames + one.cut - one.segmented + sum(one.tx_dropped.values()) for one in counted)
        gone += sum(worker.waiting for worker in self.workers)
        led_nowhere = sum(one.rx_dropped[reason] for one in counted for reason in conservation.LED_NOWHERE)
        for worker in self.workers:
            worker.close()
        for guest in self.guests:
            guest.close()
        assert came == gone + led_nowhere


@contextlib.contextmanager
def hub(
    n: int = 4,
    features: int | Sequence[int] = F_VERSION_1 | RING_F_INDIRECT_DESC,
    workers: int = 1,
    posted: int = 64,
    *,
    addresses: int = 65536,
    size: int = 256,
    hold_ms: int = 0,
    idle: str = "poll",
) -> Iterator[Hub]:
    """features: of all guests, or of each. posted: receive buffers of each guest."""
    made = Hub(n, features, workers, posted, addresses=addresses, size=size, hold_ms=hold_ms, idle=idle)
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


def test_an_address_that_moved_is_found_at_its_new_port_by_the_next_frame() -> None:
    with hub() as h:
        h.guests[1].driver.send(ethernet(EVERYBODY, mac(1)))
        h.settle()
        h.guests[0].driver.send(ethernet(mac(1), mac(0)))
        h.settle()
        h.guests[2].driver.send(ethernet(EVERYBODY, mac(1)))
        h.settle()
        for i in range(4):
            h.arrived(i)
        h.guests[0].driver.send(ethernet(mac(1), mac(0)))
        h.settle()
        assert [len(h.arrived(i)) for i in range(4)] == [0, 0, 1, 0]


@pytest.mark.parametrize("last", [b"\x00", b"\x0f"], ids=bytes.hex)
def test_what_is_for_a_bridge_itself_reaches_nobody(last: bytes) -> None:
    with hub() as h:
        h.guests[0].driver.send(ethernet(b"\x01\x80\xc2\x00\x00" + last, mac(0)))
        h.settle()
        assert [h.arrived(i) for i in range(4)] == [[]] * 4
        assert h.guests[0].port.counters().rx_dropped["reserved_address"] == 1


def test_a_frame_for_an_address_at_its_own_port_goes_no_further() -> None:
    with hub() as h:
        h.guests[0].driver.send(ethernet(EVERYBODY, mac(9)))
        h.settle()
        h.guests[0].driver.send(ethernet(mac(9), mac(0)))
        h.settle()
        assert h.guests[0].port.counters().rx_dropped["same_port"] == 1
        assert [len(h.arrived(i)) for i in range(4)] == [0, 1, 1, 1]


@pytest.mark.parametrize("ring", FORMATS.values(), ids=FORMATS.keys())
def test_a_change_between_the_copies_of_a_flood_doubles_nothing(ring: int) -> None:
    with hub(3, F_VERSION_1 | RING_F_INDIRECT_DESC | ring, posted=0) as h:
        sender, quick, slow = h.guests
        quick.driver.post(64)
        for _ in range(14):
            address = slow.memory.take(32 * 100)  # in so many pieces that a visit's budget is spent on eight of them
            room = [Piece(address + 100 * i, 100, writable=True) for i in range(32)]
            slow.driver.post_chain([slow.driver.receiveq.indirect(room)])
        frames = [ethernet(EVERYBODY, mac(0), bytes([n]) * 46) for n in range(14)]
        sender.driver.send_at_once(*frames)
        h.workers[0].step()
        sender.port.set_memory(mapped(sender.memory))
        h.settle()
        assert h.arrived(1) == frames
        assert slow.port.counters().tx_frames == len(frames)


def test_a_worker_that_has_a_receive_queue_for_too_long_stops_nobody() -> None:
    with hub(workers=2) as h:
        for i in range(4):
            h.guests[i].driver.send(ethernet(EVERYBODY, mac(i)))
        h.settle()
        assert [len(h.arrived(i)) for i in range(4)] == [3] * 4
        assert delivery_locks.hold(h.guests[1].port, 0)
        for to in (1, 2, 1, 3):
            h.guests[0].driver.send(ethernet(mac(to), mac(0)))
        h.settle()
        assert [len(h.arrived(i)) for i in range(4)] == [0, 0, 1, 1]
        assert h.guests[1].port.counters().tx_dropped["no_receive_buffers"] == 2
        delivery_locks.let_go(h.guests[1].port, 0)
        h.guests[0].driver.send(ethernet(mac(1), mac(0)))
        h.settle()
        assert len(h.arrived(1)) == 1


SENT = 1500


@pytest.mark.parametrize("ring", FORMATS.values(), ids=FORMATS.keys())
def test_two_workers_deliver_to_one_guest_and_what_arrives_is_whole_once_and_in_order(ring: int) -> None:
    with hub(features=F_VERSION_1 | NET_F_MRG_RXBUF | ring, workers=2) as h:
        receiver = h.guests[3]
        receiver.driver.send(ethernet(EVERYBODY, mac(3)))
        h.settle()
        threads = [threading.Thread(target=worker.run) for worker in h.workers]
        for thread in threads:
            thread.start()
        got: list[bytes] = []
        end = time.monotonic() + 30
        try:
            for n in range(SENT):
                for i in (0, 1, 2):
                    if n % 64 == 63:
                        h.guests[i].driver.wait_sent()
                    h.guests[i].driver.send(ethernet(mac(3), mac(i), n.to_bytes(4, "little") * 50))
                got += receiver.driver.receive_all()
            while len(got) + dropped(receiver) < 3 * SENT and time.monotonic() < end:
                got += receiver.driver.receive_all()
        finally:
            for worker in h.workers:
                worker.stop()
            for thread in threads:
                thread.join()
        assert len(got) + dropped(receiver) == 3 * SENT
        assert len(got) > SENT / 2
        for i in (0, 1, 2):
            numbers = [frame[14:18] for frame in got if frame[6:12] == mac(i)]
            assert all(frame[14:] == frame[14:18] * 50 for frame in got)
            values = [int.from_bytes(number, "little") for number in numbers]
            assert values == sorted(set(values))


def dropped(guest: GuestPort) -> int:
    return sum(guest.port.counters().tx_dropped.values())


@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("part", ["destination", "source", "EtherType"])
def test_a_frame_that_begins_unlike_the_others_of_its_burst_arrives_as_it_was_sent(part: str, at: int) -> None:
    with hub() as h:
        for i in (1, 2):
            h.guests[i].driver.send(ethernet(mac(i), mac(i)))
        h.settle()
        usual = ethernet(mac(1), mac(0))
        unlike = {
            "destination": ethernet(mac(2), mac(0)), "source": ethernet(mac(1), mac(9)),
            "EtherType": usual[:12] + b"\x86\xdd" + usual[14:],
        }[part]  # fmt: skip
        sent = [usual] * 8
        sent[at] = unlike
        h.guests[0].driver.send_at_once(*sent)
        h.settle()
        assert h.arrived(1) == [frame for frame in sent if frame[:6] == mac(1)]
        assert h.arrived(2) == [frame for frame in sent if frame[:6] == mac(2)]
        assert (h.table.find(mac(9).hex(":")) is not None) == (part == "source")
