"""The door: workers see a change of a port whole or not at all, and wait for nobody without need."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door, WorkerStuckError
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory
from tests.unit.rig import F_VERSION_1, MIB, GuestPort, frame, mapped, rig, setup_of
from tests.unit.session_bench import open_fds
from tests.unit.stuck_worker import StuckWorker

SHORT = 0.05
"""Seconds that a test waits for a worker that does not come."""


class Scene:
    """A guest at a port, and a worker that can be made to hang."""

    def __init__(self) -> None:
        self.door = Door()
        self.side = GuestPort(self.door, "a", Memory.of(8 * MIB), 256, F_VERSION_1)
        self.port = self.side.port
        self.worker = StuckWorker(self.door, "worker3", self.port)

    def close(self) -> None:
        self.worker.close()
        self.side.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def seen(port: VirtioPort) -> list[Any]:
    """All that a port shows of itself, without what its worker writes."""
    states = [port.queue_state(index)._replace(started=False, kicks=0) for index in range(2)]
    return [port.link_up, *states]


SETTERS: dict[str, Callable[[GuestPort], object]] = {
    "set_link": lambda side: side.port.set_link(False),
    "set_memory": lambda side: side.port.set_memory(None),
    "stop_queue": lambda side: side.port.stop_queue(1),
    "set_enabled": lambda side: side.port.set_enabled(0, False),
    "set_call_fd": lambda side: side.port.set_call_fd(0, -1),
    "set_kick_fd": lambda side: side.port.set_kick_fd(1, -1),
}
NOT_SHOWN = ("set_call_fd", "set_kick_fd")


@pytest.mark.parametrize("name", SETTERS)
def test_a_setter_changes_nothing_while_a_worker_is_stuck_and_all_once_it_is_back(scene: Scene, name: str) -> None:
    scene.side.connect()
    before, doors = seen(scene.port), scene.port.doors
    scene.worker.stick()
    for _ in range(2):
        with pytest.raises(WorkerStuckError, match="worker3 does not come to the door"), scene.port.change(SHORT):
            SETTERS[name](scene.side)
        assert (seen(scene.port), scene.port.doors) == (before, doors)
    scene.worker.let_go()
    SETTERS[name](scene.side)
    assert scene.port.doors == doors + 1
    if name not in NOT_SHOWN:
        assert seen(scene.port) != before


def test_a_queue_starts_once_a_worker_that_was_stuck_is_back(scene: Scene) -> None:
    scene.port.set_features(F_VERSION_1)
    scene.port.set_memory(mapped(scene.side.memory))
    scene.worker.stick()
    with pytest.raises(WorkerStuckError), scene.port.change(SHORT):
        scene.side.start(1)
    assert not scene.port.queue_state(1).live
    scene.worker.let_go()
    scene.side.start(1)
    assert scene.port.queue_state(1).live


def test_features_that_did_not_take_effect_are_not_taken_for_those_that_did() -> None:
    """The header would be taken for two bytes of the frame."""
    with rig(features=0) as r:
        for index in range(2):
            r.a.port.stop_queue(index)
        stuck = StuckWorker(r.door, "worker", worker=r.worker)
        stuck.stick()
        with pytest.raises(WorkerStuckError), r.a.port.change(SHORT):
            r.a.port.set_features(F_VERSION_1)
        stuck.let_go()
        r.a.port.set_features(F_VERSION_1)
        r.a.driver.header_bytes = 12
        for index in range(2):
            r.a.start(index, base=r.a.port.queue_setup(index).base)
        r.b.driver.post(4)
        r.a.driver.send(frame(1))
        assert r.b.driver.receive() == frame(1)
        stuck.close()


def test_what_a_block_asks_for_takes_effect_at_once_and_workers_stand_still_once(scene: Scene) -> None:
    doors = scene.port.doors
    with scene.port.change():
        scene.side.connect()
        scene.port.set_enabled(0, False)
        assert not scene.port.queue_state(1).live
    assert scene.port.doors == doors + 1
    assert [scene.port.queue_state(index).live for index in range(2)] == [True, True]
    assert [scene.port.queue_state(index).enabled for index in range(2)] == [False, True]


def test_a_block_that_raises_changes_nothing(scene: Scene) -> None:
    scene.side.connect()
    before = seen(scene.port)

    def half_done() -> None:
        with scene.port.change():
            scene.port.set_enabled(0, False)
            scene.port.set_features(0)

    with pytest.raises(ValueError, match="is live"):
        half_done()
    assert seen(scene.port) == before
    scene.port.set_enabled(1, False)
    assert [scene.port.queue_state(index).enabled for index in range(2)] == [True, False]


def test_where_nothing_changes_no_worker_stands_still(scene: Scene) -> None:
    scene.side.connect()
    doors = scene.port.doors
    scene.port.set_link(True)
    scene.port.set_features(F_VERSION_1)
    scene.port.set_enabled(0, True)
    scene.port.set_call_fd(0, scene.side.call[0])
    scene.port.set_kick_fd(1, scene.side.kick[1])
    scene.port.kick_queue(1)
    assert scene.port.doors == doors
    for index in range(2):
        scene.port.stop_queue(index)
    doors = scene.port.doors
    for index in range(2):
        scene.port.stop_queue(index)
    assert scene.port.doors == doors


def test_a_queue_that_stops_and_starts_in_one_change_goes_on_where_it_stopped() -> None:
    with rig() as r:
        r.b.driver.post(3)
        for number in range(4):  # the last one waits for a buffer
            r.a.driver.send(frame(number))
        r.settle()
        with r.a.port.change():
            r.a.port.stop_queue(1)
            queue = r.a.queues[1]
            r.a.port.start_queue(1, setup_of(r.a.memory, queue, base=None))
        assert r.a.port.queue_setup(1).base == (queue.base + 3) & 0xFFFF
        r.b.driver.post(4)
        r.a.driver.send(frame(4))
        r.settle()
        assert r.b.driver.receive_all() == [frame(number) for number in range(5)]


def test_other_threads_run_while_the_door_waits(scene: Scene) -> None:
    """Otherwise nobody would release the worker."""
    scene.worker.stick()
    thread = scene.worker.let_go_in_a_while()
    with scene.port.change(MAX_WAIT):
        scene.port.set_link(True)
        thread.start()
    thread.join()
    assert scene.port.link_up


def test_a_port_whose_workers_are_others_is_not_kept_waiting(scene: Scene) -> None:
    """Nor is a port without a worker."""
    other, alone = VirtioPort("b", scene.door), VirtioPort("c", scene.door)
    with contextlib.closing(StuckWorker(scene.door, "worker4", other)):
        scene.worker.stick()
        for port in (other, alone):
            with port.change(MAX_WAIT):
                port.set_link(True)
            assert port.link_up
        scene.worker.let_go()
    other.close()
    alone.close()


def test_a_worker_that_came_goes_on_while_another_one_is_waited_for(scene: Scene) -> None:
    with contextlib.closing(StuckWorker(scene.door, "worker4", to=scene.port)) as other:
        scene.worker.stick()
        scene.port.begin()
        scene.port.set_link(True)
        waits_for_it_alone(scene.port, "worker3")
        for _ in range(3):
            assert not scene.port.commit(0.01)
            rounds, deadline = other.worker.rounds, time.monotonic() + MAX_WAIT
            while other.worker.rounds < rounds + 100:
                assert time.monotonic() < deadline
        scene.worker.let_go()
        assert scene.port.commit(MAX_WAIT)
        assert scene.port.link_up


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + MAX_WAIT
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


def waits_for_it_alone(port: VirtioPort, worker: str) -> None:
    """A change that is committed again and again, while only the stuck worker has not come."""

    def alone() -> bool:
        assert not port.commit(SHORT)
        return port.late.startswith(f"{worker} does not come")

    until(alone)


def posted_and_forgotten(scene: Scene) -> None:
    """A change that takes effect when the stuck worker comes, while the control thread does something else."""
    scene.worker.stick()
    scene.port.begin()
    scene.port.set_link(True)
    assert not scene.port.commit(0.01)
    rounds = scene.worker.worker.rounds
    scene.worker.let_go()
    until(lambda: scene.port.link_up)
    until(lambda: scene.worker.worker.rounds > rounds + 100)


def test_a_worker_makes_a_change_and_goes_on_whatever_control_does_meanwhile(scene: Scene) -> None:
    """The control thread may wait for a CPU that an attacker uses."""
    doors = scene.port.doors
    posted_and_forgotten(scene)
    assert scene.port.commit()
    assert scene.port.link_up
    assert scene.port.doors == doors + 1


def test_a_change_that_took_effect_meanwhile_is_neither_forgotten_nor_made_twice(scene: Scene) -> None:
    posted_and_forgotten(scene)
    scene.port.discard()
    assert scene.port.link_up
    posted = scene.port.doors
    scene.port.set_link(True)
    assert scene.port.doors == posted
    scene.port.set_link(False)
    assert (scene.port.link_up, scene.port.doors) == (False, posted + 1)


def test_what_is_asked_for_after_a_change_that_waits_takes_effect_with_it(scene: Scene) -> None:
    scene.side.connect()
    scene.worker.stick()
    scene.port.begin()
    scene.port.set_enabled(0, False)
    assert not scene.port.commit(0.01)
    scene.port.begin()
    scene.port.set_enabled(1, False)
    scene.worker.let_go()
    until(lambda: scene.port.commit(0.01))
    assert [scene.port.queue_state(index).enabled for index in range(2)] == [False, False]


def test_memory_that_took_effect_meanwhile_is_kept_and_the_one_before_is_let_go(scene: Scene) -> None:
    scene.side.connect()
    scene.worker.stick()
    scene.port.begin()
    with contextlib.closing(Memory.of(1 * MIB, guest_addr=1 << 40)) as other:
        assert scene.port.set_memory(mapped(other)) == (0, 1)
        assert not scene.port.commit(0.01)
        scene.worker.let_go()
        until(lambda: scene.port.queue_state(0).broken)
        scene.port.begin()
        scene.port.set_memory(None)
        until(lambda: scene.port.commit(0.01))


def test_a_worker_that_is_asked_for_still_ends(scene: Scene) -> None:
    scene.worker.stick()
    scene.port.begin()
    scene.port.set_link(True)
    assert not scene.port.commit(0.01)
    scene.worker.let_go()
    scene.worker.worker.stop()
    scene.worker.thread.join(MAX_WAIT)
    assert not scene.worker.thread.is_alive()
    assert scene.port.commit(MAX_WAIT)
    assert scene.port.link_up


def test_a_worker_that_starts_while_a_change_waits_sees_it_whole(scene: Scene) -> None:
    """It is waited for, although it got its lanes after the change began."""
    scene.worker.stick()
    scene.port.begin()
    scene.port.set_link(True)
    assert not scene.port.commit(0.01)
    with contextlib.closing(StuckWorker(scene.door, "worker4", to=scene.port)) as late:
        late.stick()
        scene.worker.let_go()
        waits_for_it_alone(scene.port, "worker4")
        late.let_go()
        assert scene.port.commit(MAX_WAIT)
        assert scene.port.link_up


def test_a_worker_with_another_door_is_refused() -> None:
    worker, port = Worker(Door(), "worker0"), VirtioPort("a", Door())
    with pytest.raises(ValueError, match="worker0 and port a have different doors"):
        worker.add_wire(port, None, hold=False, hold_timeout_ms=1)
    worker.close()
    port.close()


def test_two_ports_change_two_thousand_times_at_once_under_traffic_and_no_frame_is_lost() -> None:
    with rig() as r:
        thread = threading.Thread(target=r.worker.run)
        thread.start()
        changed = [0, 0]
        traffic = threading.Event()  # a hundred frames came through meanwhile

        def change(number: int, side: GuestPort) -> None:
            while changed[number] < 1000 or not traffic.is_set():
                side.port.set_call_fd(0, side.call[0] if changed[number] & 1 else -1)
                changed[number] += 1

        threads = [threading.Thread(target=change, args=one) for one in enumerate((r.a, r.b))]
        r.b.driver.post(128)
        for one in threads:
            one.start()
        sent: list[bytes] = []
        got: list[bytes] = []
        deadline = time.monotonic() + 120
        try:
            while any(one.is_alive() for one in threads) or len(got) < len(sent):
                assert time.monotonic() < deadline
                if len(sent) - len(got) < 64 and any(one.is_alive() for one in threads):
                    sent.append(frame(len(sent)))
                    r.a.driver.send(sent[-1])
                r.a.driver.reclaim()
                got += r.b.driver.receive_all()
                if len(got) > 100:
                    traffic.set()
        finally:
            r.worker.stop()
            thread.join(MAX_WAIT)
        assert min(changed) >= 1000
        assert got == sent


def test_no_file_descriptor_is_lost_over_changes_that_wait(scene: Scene) -> None:
    fds = len(open_fds())
    scene.worker.stick()
    for _ in range(3):
        with pytest.raises(WorkerStuckError), scene.port.change(0.001):
            scene.side.connect()
    scene.worker.let_go()
    assert len(open_fds()) == fds
