"""Guests that pause, and guests that are slow, at a switch whose worker runs: nothing is lost, and nobody waits."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from bench.guests.waits import MAX_WAIT
from bench.rig import POLLED, USUAL_FEATURES, rig
from bench.switch_rig import switch_rig
from fastvhost.dataplane.rewiring import Rewiring
from fastvhost.dataplane.worker import Worker
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature
from fastvhost.driver.load import Load
from tests.unit.test_backlog import know
from tests.unit.test_learn import ethernet, hub, mac

WINDOW, BURST = 256, 64
PAUSE = 0.005
PAUSES, LONG_SECONDS = 20, 60
NEVER_MS = 3_600_000
ring_formats = pytest.mark.parametrize("ring", [Feature(0), Feature.RING_PACKED], ids=["split", "packed"])


class Windowed:
    """A guest that has 256 frames outstanding at most, as TCP's window would, and pauses at random."""

    def __init__(self, device: GuestDevice, peer: GuestDevice, seed: int) -> None:
        self.device, self.peer, self.load = device, peer, Load(device)
        self.random, self.until, self.pauses = random.Random(seed), 0.0, 0

    @property
    def outstanding(self) -> int:
        return self.device.sent[0] - self.peer.received[0]

    def step(self, *, send: bool = True) -> int:
        """Returns what it received."""
        if time.monotonic() < self.until:
            return 0
        (self.load.flood if send and self.outstanding <= WINDOW - BURST else self.load.drain)()
        received = self.load.step()
        if received and send and self.random.random() < 0.1:
            self.until = time.monotonic() + PAUSE
            self.pauses += 1
        return received


@ring_formats
def test_flows_of_256_frames_to_guests_that_pause_lose_nothing_and_keep_their_order(
    ring: Feature, pytestconfig: pytest.Config
) -> None:
    """Their rings have room for a quarter of that."""
    settings = replace(POLLED, queue_size=64)
    with rig(settings, features=USUAL_FEATURES | ring, learn=True, hold_timeout_ms=NEVER_MS) as r:
        a, b = (Windowed(one, peer, n) for n, (one, peer) in enumerate([r.devices, r.devices[::-1]]))
        for sender, receiver in ((b, a), (a, b)):    # each is known before anybody has much for it
            sender.step()
            while sender.outstanding:
                r.worker.step()
                receiver.step(send=False)
        thread = threading.Thread(target=r.worker.run)
        thread.start()
        most, start = 0, time.monotonic()

        def seen_enough() -> bool:
            seconds = time.monotonic() - start
            if pytestconfig.getoption("long"):
                return seconds > LONG_SECONDS
            return (min(a.pauses, b.pauses) > PAUSES and most > BURST) or seconds > MAX_WAIT

        try:
            while not seen_enough():
                if not a.step() + b.step():
                    time.sleep(0.0001)    # the worker may have no other CPU
                most = max(most, r.worker.waiting)
            end = time.monotonic() + MAX_WAIT
            while a.outstanding + b.outstanding and time.monotonic() < end:
                a.step(send=False)
                b.step(send=False)
                time.sleep(0.0001)
        finally:
            r.worker.stop()
            thread.join()
        for guest in (a, b):
            frames, _, *wrong = guest.device.received
            assert wrong == [0, 0, 0, 0]
            assert frames == guest.peer.sent[0] > BURST * PAUSES
        assert most > BURST
        print(f"{a.device.received[0] + b.device.received[0]} frames, {a.pauses} and {b.pauses} pauses")


def fast_ones(pattern: str, slow: int) -> int:
    """Frames that one guest got of 2000 rounds, beside one that looks at its ring once in so many."""
    with switch_rig(pattern, 3, hold=True) as r:
        loads = [Load(device) for device in r.devices]
        for load in loads:
            load.step()
            r.worker.step()
        before = r.devices[2].received[0]
        for n in range(2000):
            loads[0].step()
            loads[2].step()
            if n % slow == 0:
                loads[1].step()
            r.worker.step()
        return r.devices[2].received[0] - before


def test_a_fast_guest_gets_as_much_beside_a_slow_one_as_beside_a_fast_one() -> None:
    """Both of the same sender, which sends to them in turns. Rounds are counted, not time."""
    assert fast_ones("hub", 500) >= 0.95 * fast_ones("hub", 1)


@pytest.mark.parametrize("moves", [False, True], ids=["each with its worker", "moved to and fro"])
@ring_formats
def test_what_two_workers_deliver_to_one_guest_arrives_once_whole_and_in_order(ring: Feature, moves: bool) -> None:
    """Three senders, each with 80 frames outstanding at most, so that no backlog is ever full."""
    per_flow, outstanding, moved = 800, 80, 0
    with hub(4, int(USUAL_FEATURES | ring), workers=2, hold_ms=NEVER_MS) as h:
        rewiring = Rewiring(h.door, h.workers)
        know(h, 3)
        got: dict[bytes, list[bytes]] = {mac(i): [] for i in (0, 1, 2)}

        def receive() -> None:
            for frame in h.guests[3].driver.receive_all():
                got[frame[6:12]].append(frame)

        def await_frames(each: int) -> None:
            end = time.monotonic() + MAX_WAIT
            while min(map(len, got.values())) < each:
                receive()
                assert time.monotonic() < end, {source.hex(): len(frames) for source, frames in got.items()}

        with running(h.workers):
            for n in range(per_flow):
                for i in (0, 1, 2):
                    if n % 64 == 63:
                        h.guests[i].driver.wait_sent()
                    h.guests[i].driver.send(counted(i, n))
                if moves and n % 40 == 20:
                    moved += rewiring.move(h.wires[0], [h.workers[n // 40 % 2 ^ 1]])
                await_frames(max(n - outstanding, 0))
            await_frames(per_flow)
        assert got == {mac(i): [counted(i, n) for n in range(per_flow)] for i in (0, 1, 2)}
        assert not any(h.guests[3].port.counters().tx_dropped.values())
        assert moved >= 10 * moves


def counted(sender: int, n: int) -> bytes:
    return ethernet(mac(3), mac(sender), n.to_bytes(4, "little") * 50)


@contextlib.contextmanager
def running(workers: Sequence[Worker]) -> Iterator[None]:
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker, thread in zip(workers, threads, strict=True):
            worker.stop()
            thread.join(MAX_WAIT)
            assert not thread.is_alive()
