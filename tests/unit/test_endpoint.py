"""The endpoint: a program's port, whose buffers pass between the program and the worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost import Door, Worker
from fastvhost.dataplane.ports.endpoint import Endpoint, EndpointClosedError
from fastvhost.dataplane.ports.endpoint_burst import Burst


@dataclass
class Two:
    """Two endpoints, wired to each other; the worker moves one burst a step."""

    a: Endpoint
    b: Endpoint
    worker: Worker

    def run(self) -> threading.Thread:
        thread = threading.Thread(target=self.worker.run, daemon=True)
        thread.start()
        return thread


@pytest.fixture(params=["poll", "interrupt"])
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    door = Door()
    a, b = (Endpoint(name, door, slots=16, slot_bytes=1600) for name in "ab")
    worker = Worker(door, idle=request.param)
    for one, other in ((a, b), (b, a)):
        worker.add_wire(one, other, hold=True, hold_timeout_ms=1000)
    yield Two(a, b, worker)
    worker.stop()
    deadline = time.monotonic() + MAX_WAIT
    while worker.running and time.monotonic() < deadline:
        time.sleep(0.001)
    worker.close()


def frame(number: int, size: int = 60) -> bytes:
    return number.to_bytes(4, "big") + bytes(size - 4)


def test_frames_arrive_as_they_were_sent_and_in_order(two: Two) -> None:
    sent = [frame(n, 14 + 50 * n) for n in range(8)]
    assert two.a.send(sent) == 8
    assert two.worker.step() == 8
    got = two.b.recv(64, timeout=0)
    assert [bytes(view) for view in got] == sent
    assert two.b.counters().tx_frames == two.a.counters().rx_frames == 8
    assert two.b.counters().tx_bytes == two.a.counters().rx_bytes == sum(map(len, sent))


def test_a_burst_is_numbered_and_numbers_are_read_only_from_frames_that_are_otherwise_the_same(two: Two) -> None:
    model = bytes(range(64))
    burst = two.a.lend(6, 64)
    burst.fill(model)
    burst.stamp(20, 0xFFFFFFFE)  # and on from 0
    for index, place in ((1, 19), (2, 24), (3, 63)):
        burst[index][place] ^= 1
    burst.resize(4, 63)
    for at in (60, 0xFFFFFFFE):  # the latter's end lies beyond 32 bits
        with pytest.raises(ValueError, match=f"no room for a number at {at} in a frame of 6[34] bytes"):
            burst.stamp(at, 7)
    two.a.send(burst)
    two.worker.step()
    with two.b.recv(timeout=0) as got:
        assert got.numbers(model, 20) == [0xFFFFFFFE, -1, -1, -1, -1, 3]
        assert bytes(got[5]) == model[:20] + b"\0\0\0\3" + model[24:]
        for at in (61, 0xFFFFFFFC):
            with pytest.raises(ValueError, match=f"no number at {at} in a frame of 64 bytes"):
                got.numbers(model, at)
    for spent in (lambda: got.numbers(model, 20), lambda: burst.stamp(20, 0)):
        with pytest.raises(IndexError, match="given back"):
            spent()


def test_a_received_frame_goes_back_changed_in_place_and_buffers_never_run_out(two: Two) -> None:
    for number in range(100):  # far more than there are slots
        assert two.a.send([frame(number)] * 5, timeout=0) == 5
        two.worker.step()
        burst = two.b.recv(timeout=0)
        assert len(burst) == 5
        for view in burst:
            view[4] = 0xEE
        assert two.b.send(burst) == 5
        two.worker.step()
        with two.a.recv(timeout=0) as answers:
            assert [bytes(view[:5]) for view in answers] == [frame(number)[:4] + b"\xee"] * 5
        assert len(two.b.recv(timeout=0)) == 0  # gives the worker back what came home from the echo


def test_a_program_that_does_not_read_holds_back_the_sender_and_loses_nothing(two: Two) -> None:
    for number in range(8):
        assert two.a.send([frame(number)]) == 1
        two.worker.step()
    assert two.a.send([frame(8)], timeout=0) == 1  # stays on its way: b has no vacant buffer
    two.worker.step()
    assert two.b.counters().tx_frames == 8
    first = two.b.recv(3)
    first.release()
    two.worker.step()
    rest = two.b.recv(64)
    assert [int.from_bytes(view[:4], "big") for view in rest] == [3, 4, 5, 6, 7, 8]


def test_buffers_that_are_lent_come_back_by_release_by_the_end_of_a_block_and_by_being_forgotten(two: Two) -> None:
    for way in range(3):
        burst: Burst | None = two.a.lend(64, 100, timeout=0)
        assert burst is not None
        assert (len(burst), len(burst[0])) == (8, 100)
        assert len(two.a.lend(1, timeout=0)) == 0
        if way == 0:
            burst.release()
            burst.release()
        elif way == 1:
            with burst:
                pass
        burst = None
    assert len(two.a.lend(64, timeout=0)) == 8


def test_what_a_burst_does_not_allow_is_refused_and_sends_nothing(two: Two) -> None:
    with pytest.raises(ValueError, match="a frame of 13 bytes; 14 to 1600 are possible"):
        two.a.send([bytes(60), bytes(13)])
    with pytest.raises(ValueError, match="a frame of 1601 bytes"):
        two.a.send([bytes(1601)])
    burst = two.a.lend(2)
    with pytest.raises(ValueError, match="a frame of 1601 bytes"):
        burst.resize(0, 1601)
    with pytest.raises(IndexError):
        burst[2]
    with pytest.raises(ValueError, match="another endpoint's"):
        two.b.send(burst)
    burst.release()
    with pytest.raises(IndexError, match="given back"):
        burst[0]
    with pytest.raises(ValueError, match="given back or sent before"):
        two.a.send(burst)
    two.worker.step()
    assert two.a.counters().rx_frames == 0


def test_a_frame_longer_than_the_buffers_drops_as_oversize() -> None:
    door = Door()
    large, small = Endpoint("large", door, slot_bytes=9216), Endpoint("small", door, slots=4, slot_bytes=64)
    worker = Worker(door)
    worker.add_wire(large, small, hold=True, hold_timeout_ms=1000)
    large.send([bytes(65), bytes(64)])
    worker.step()
    assert [len(view) for view in small.recv(timeout=0)] == [64]
    assert small.counters().tx_dropped["oversize"] == 1
    worker.close()


def test_who_waits_is_woken_by_a_frame_and_a_sleeping_worker_by_a_send(two: Two) -> None:
    two.run()
    time.sleep(0.05)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(bytes(view) for view in two.b.recv(timeout=MAX_WAIT)))
    reader.start()
    time.sleep(0.05)
    assert two.a.send([frame(7)]) == 1
    reader.join(MAX_WAIT)
    assert got == [frame(7)]


def test_waiting_ends_with_the_time_and_with_the_forwarder(two: Two) -> None:
    start = time.monotonic()
    assert len(two.b.recv(timeout=0.05)) == 0
    assert time.monotonic() - start >= 0.05
    two.a.send([frame(1)])
    two.worker.step()
    ended: list[Exception] = []

    def wait() -> None:
        try:
            while True:
                two.b.recv()
        except EndpointClosedError as error:
            ended.append(error)

    reader = threading.Thread(target=wait)
    reader.start()
    two.b.end()
    reader.join(MAX_WAIT)
    assert "the forwarder has ended" in str(ended[0])
    with pytest.raises(EndpointClosedError):
        two.b.send([frame(2)])


def test_asyncio_programs_wait_without_holding_up_the_loop(two: Two) -> None:
    two.run()

    async def echo() -> None:
        for _ in range(50):
            two.b.send(await two.b.recv_async())

    async def ask() -> list[int]:
        answers = []
        for number in range(50):
            burst = await two.a.lend_async(1, 60)
            burst[0][:] = frame(number)
            two.a.send(burst)
            with await two.a.recv_async() as got:
                answers += [int.from_bytes(view[:4], "big") for view in got]
        return answers

    async def both() -> list[int]:
        return (await asyncio.wait_for(asyncio.gather(ask(), echo()), 2 * MAX_WAIT))[0]

    assert asyncio.run(both()) == list(range(50))


def test_two_threads_flood_both_ways_and_every_frame_comes_once_and_in_order(two: Two) -> None:
    two.run()
    count = 20000
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def work(name: str, endpoint: Endpoint) -> None:
        sent, deadline = 0, time.monotonic() + 120
        while (sent < count or len(seen[name]) < count) and time.monotonic() < deadline:
            with endpoint.lend(min(8, count - sent), 60, timeout=0) as burst:
                for view in burst:
                    view[:4] = sent.to_bytes(4, "big")
                    sent += 1
                endpoint.send(burst)
            with endpoint.recv(64, timeout=0.001) as got:
                seen[name] += [int.from_bytes(view[:4], "big") for view in got]

    threads = [threading.Thread(target=work, args=(e.name, e)) for e in (two.a, two.b)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(130)
    assert seen["a"] == list(range(count))
    assert seen["b"] == list(range(count))
