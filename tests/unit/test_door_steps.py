"""The door, step by step: which workers have come to a posted change, which is the last, and which wait.

Nobody runs here but the test: each worker comes when it is told to, so every order of steps can be had.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.dataplane.door import Door
from tests.probes.doors import PostingPort, SteppedWorker


def scene(n_workers: int, n_ports: int = 1) -> tuple[list[SteppedWorker], list[PostingPort]]:
    """Workers that run, each with lanes of all ports."""
    door = Door()
    ports = [PostingPort(door) for _ in range(n_ports)]
    workers = [SteppedWorker(door, f"worker{n}", *ports) for n in range(n_workers)]
    for worker in workers:
        worker.enter()
    return workers, ports


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + MAX_WAIT
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.001)


def test_the_only_worker_of_a_port_makes_its_change_and_never_stands_still() -> None:
    (worker,), (port,) = scene(1)
    assert not port.post(7)
    assert worker.called
    assert port.value == 0
    assert not worker.look(port)
    assert port.value == 7
    assert port.post(7)
    assert port.changes == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_last_worker_to_come_makes_the_change_and_all_go_on(order: tuple[int, ...]) -> None:
    workers, (port,) = scene(3)
    assert not port.post(7)
    *first, last = (workers[number] for number in order)
    for worker in first:
        assert worker.look(port)
        assert port.value == 0
    assert all(worker.look(port) for worker in first)  # they wait
    assert not last.look(port)
    assert (port.value, port.changes) == (7, 1)
    assert not any(worker.look(port) for worker in workers)
    assert port.post(7)


def test_no_worker_comes_while_control_looks_who_is_to_come() -> None:
    """The control thread may lose its CPU there."""
    workers, (port,) = scene(2)
    port.begin_to_count(7)
    assert not any(worker.look(port) for worker in workers)
    assert port.missing == {0, 1}
    port.count()
    assert all(worker.called for worker in workers)
    assert workers[0].look(port)
    assert not workers[1].look(port)
    assert port.value == 7


def test_a_change_is_withdrawn_until_the_last_worker_has_come() -> None:
    workers, (port,) = scene(2)
    port.post(7)
    assert workers[0].look(port)
    assert port.withdraw()
    assert not any(worker.look(port) for worker in workers)
    assert port.value == 0


def test_a_change_that_took_effect_is_not_withdrawn_and_still_acknowledged() -> None:
    (worker,), (port,) = scene(1)
    port.post(7)
    worker.look(port)
    assert not port.withdraw()
    passages = port.door.passages
    assert port.post(7)
    assert (port.value, port.changes, port.door.passages) == (7, 1, passages + 1)


def test_withdrawing_and_starting_wait_for_a_change_that_is_taking_effect() -> None:
    workers, (port,) = scene(2)
    workers[1].leave()
    port.halt(True)
    port.post(7)
    acts = [lambda: workers[0].look(port), port.withdraw, workers[1].enter]
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(acts[0])]
        until(lambda: port.half_done)
        answers += [pool.submit(act) for act in acts[1:]]
        done, _ = wait(answers, 0.05, FIRST_COMPLETED)
        port.halt(False)
        assert not done
        assert not answers[0].result(30)
        assert not answers[1].result(30)
    assert (port.value, port.changes) == (7, 1)


def test_a_worker_that_stands_for_a_withdrawn_change_comes_to_the_next_one() -> None:
    workers, (port,) = scene(2)
    port.post(7)
    assert workers[0].look(port)
    port.withdraw()
    port.post(8)
    assert port.missing == {0, 1}
    assert workers[0].look(port)
    assert not workers[1].look(port)
    assert (port.value, port.changes) == (8, 1)


def test_a_worker_that_waited_in_vain_goes_on_and_comes_again_when_the_late_one_calls_it() -> None:
    (early, also_early, late), (port,) = scene(3)
    port.post(7)
    early.stand()
    also_early.stand()
    assert port.missing == {0, 1, 2}
    assert not early.called
    assert not early.look(port)  # for whatever reason it comes by
    assert port.late.startswith("worker2 does not come")
    assert late.look(port)
    assert early.called
    assert also_early.called
    assert early.look(port)
    assert not also_early.look(port)
    assert not late.look(port)
    assert (port.value, port.changes) == (7, 1)


def test_one_that_gives_up_as_the_last_one_comes_comes_again() -> None:
    workers, (port,) = scene(2)
    port.post(7)
    workers[0].stand()
    assert workers[1].look(port)
    assert not workers[1].look(port, gives_up=True)
    assert port.missing == {0, 1}
    assert workers[1].called  # nobody else is to be waited for
    assert workers[0].called
    assert workers[0].look(port)
    assert not workers[1].look(port)
    assert port.value == 7


def test_two_workers_that_come_to_two_ports_in_opposite_order_come_to_both() -> None:
    workers, ports = scene(2, n_ports=2)
    for port in ports:
        port.post(7)
    assert workers[0].look(ports[0])
    assert workers[1].look(ports[1])
    assert not workers[0].look(ports[1])
    assert not workers[1].look(ports[0])
    assert [port.value for port in ports] == [7, 7]


def test_where_no_worker_runs_control_makes_the_change() -> None:
    workers, (port,) = scene(2)
    for worker in workers:
        worker.leave()
    assert port.post(7)
    assert port.value == 7


def test_a_worker_that_ends_is_waited_for_no_longer() -> None:
    workers, (port,) = scene(2)
    port.post(7)
    assert workers[1].look(port)
    workers[0].leave()
    assert port.post(7)
    assert (port.value, port.changes) == (7, 1)


def test_a_worker_that_is_to_end_waits_for_nobody_and_has_come() -> None:
    workers, (port,) = scene(2)
    port.post(7)
    assert workers[0].look(port)
    workers[0].stop()
    workers[0].stand()
    workers[0].leave()
    assert port.missing == {1}
    assert not workers[1].look(port)
    assert port.value == 7


def test_a_worker_that_starts_while_a_change_is_posted_is_waited_for() -> None:
    workers, (port,) = scene(2)
    workers[1].leave()
    port.post(7)
    assert port.missing == {0}
    workers[1].enter()
    assert port.missing == {0, 1}
    assert workers[0].look(port)
    assert port.value == 0
    assert not workers[1].look(port)
    assert port.value == 7


def test_a_worker_that_was_stopped_and_takes_a_step_is_waited_for() -> None:
    """It does not wait."""
    workers, (port,) = scene(2)
    workers[1].leave()
    port.post(7)
    workers[1].stop()
    workers[1].enter()
    assert workers[0].look(port)
    assert (port.missing, port.value) == ({1}, 0)
    workers[1].leave()
    assert port.post(7)


def test_a_worker_that_gets_lanes_while_a_change_is_posted_is_waited_for() -> None:
    """A worker that lost its lanes is not waited for, although another one has its place by then."""
    door = Door()
    port = PostingPort(door)
    first = SteppedWorker(door, "worker0", port)
    first.enter()
    port.post(7)
    second = SteppedWorker(door, "worker1", port)
    second.enter()
    assert port.missing == {0, 1}
    first.leave()
    first.close()
    stranger = SteppedWorker(door, "worker2")
    stranger.enter()
    assert stranger.number == 0
    assert not port.post(7)
    assert port.missing == {1}
    assert port.late.startswith("worker1 does not come")
    assert not second.look(port)
    assert port.value == 7


def test_a_worker_does_not_start_while_control_makes_a_change() -> None:
    workers, (port,) = scene(2)
    for worker in workers:
        worker.leave()
    port.halt(True)
    with ThreadPoolExecutor(3) as pool:
        made = pool.submit(port.post, 7)
        until(lambda: port.half_done)
        entered = [pool.submit(worker.enter) for worker in workers]
        done, _ = wait(entered, 0.05, FIRST_COMPLETED)
        port.halt(False)
        assert not done
        assert made.result(MAX_WAIT)
        for one in entered:
            one.result(MAX_WAIT)
    assert (port.value, port.changes) == (7, 1)


def test_the_door_has_room_for_62_workers_and_again_for_each_that_left() -> None:
    door = Door()
    workers = [SteppedWorker(door, f"worker{n}") for n in range(62)]
    with pytest.raises(ValueError, match="62 workers are the most"):
        SteppedWorker(door, "worker62")
    workers[30].close()
    assert SteppedWorker(door, "worker62").number == 30


# All of it at once


def in_threads(*acts: Callable[[], object]) -> None:
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def test_no_worker_ever_sees_half_a_change() -> None:
    """Of two ports, by three workers that end and start all the time, with changes that are withdrawn."""
    door = Door()
    ports = [PostingPort(door) for _ in range(2)]
    workers = [SteppedWorker(door, f"worker{n}", *chosen) for n, chosen in enumerate((ports, ports[::-1], ports[:1]))]
    done = threading.Event()
    made = [0, 0]

    def change(number: int) -> None:
        port, rng = ports[number], random.Random(number)
        try:
            for value in range(300):
                while not port.post(value):
                    if rng.random() < 0.2 and port.withdraw():
                        break
                else:
                    made[number] += 1
                    assert port.value == value
        finally:
            done.set()

    def work(worker: SteppedWorker) -> None:
        while not done.is_set():
            worker.run(2000, 50)

    in_threads(*(lambda number=number: change(number) for number in range(2)), *(
        lambda worker=worker: work(worker) for worker in workers
    ))  # fmt: skip
    assert [worker.torn for worker in workers] == [0, 0, 0]
    assert [port.changes for port in ports] == made
    assert min(made) > 0
