"""The composition root: what is wired to what, on which worker, and the order of starting and stopping."""

from __future__ import annotations

import os
import time

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.control import config
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.host import CorePlan
from fastvhost.control.port_text import parse
from fastvhost.control.switch import Switch
from tests.unit.fake_parts import Fakes


def plan(*cores: int | None) -> CorePlan:
    allowed = frozenset(os.sched_getaffinity(0))
    return CorePlan(cores or (None,), allowed, allowed)


def switch(fakes: Fakes, *ports: str, cores: int = 1, **options: object) -> Switch:
    settings = config.build({"port": list(ports), **{key.replace("_", "-"): value for key, value in options.items()}})
    return Switch.of(settings, plan(*[None] * cores), fakes.parts())


def test_one_worker_has_both_ways_of_every_wire() -> None:
    fakes = Fakes()
    switch(fakes, "a.sock", "b.sock", "c.sock", "d.sock", forward="patch")
    pairs = [(ingress, egress) for ingress, egress, _, _ in fakes.workers[0].wires]
    assert pairs == [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]


def test_every_port_of_a_switch_sends_to_its_bridge_and_the_workers_share_the_ports() -> None:
    fakes = Fakes()
    assert switch(fakes, "a.sock", "b.sock", "c.sock,queues=2", cores=2).wiring.config.most_workers == 4
    ways = [[wire[:2] for wire in worker.wires] for worker in fakes.workers]
    assert ways == [[("a", "a+b+c"), ("c", "a+b+c")], [("b", "a+b+c"), ("c", "a+b+c")]]


def test_policies_are_in_effect_before_the_first_frame() -> None:
    fakes = Fakes()
    mac = "52:54:00:00:00:01"
    made = switch(fakes, f"a.sock,macs={mac},max-macs=7,isolate=g,storm=9+multicast,mirror=c,pps=5", "b.sock", "c.sock")
    assert [policy for policy in made.wiring.bridge.policies if policy[0] == "a"] == [
        ("a", "guard", mac), ("a", "macs", 7), ("a", "isolate", "g"), ("a", "floods", 9, True), ("a", "mirror", "c"),
    ]  # fmt: skip
    assert [policy for policy in made.wiring.bridge.policies if policy[0] == "b"] == [
        ("b", "guard"), ("b", "macs", 1024), ("b", "isolate", ""), ("b", "floods", 1000, False), ("b", "mirror", None),
    ]  # fmt: skip
    limits = [wire.limit for wire in fakes.workers[0].wires]
    assert limits == [{"bits": 0, "frames": frames, "burst": 0} for frames in (5, 0, 0)]
    assert made.describe("a")[0]["isolate"] == "g"
    made.wiring.enforce(parse("a.sock,storm=off").policy)
    assert ("a", "floods", 0, False) in made.wiring.bridge.policies


def test_a_policy_that_cannot_be_is_refused_with_its_port() -> None:
    with pytest.raises(UsageError, match="port b: no place"):
        switch(Fakes(), "a.sock", "b.sock,macs=00:00:00:00:00:01", "c.sock")


def test_two_workers_share_the_two_ways_of_one_wire() -> None:
    fakes = Fakes()
    switch(fakes, "a.sock", "b.sock", cores=2)
    assert [worker.wires[0][:2] for worker in fakes.workers] == [("a", "b"), ("b", "a")]


def test_two_workers_share_the_queue_pairs_of_each_way() -> None:
    fakes = Fakes()
    switch(fakes, "a.sock,queues=4", "b.sock,queues=4", cores=2)
    assert [[wire[:2] for wire in worker.wires] for worker in fakes.workers] == [[("a", "b"), ("b", "a")]] * 2
    assert [worker.shares for worker in fakes.workers] == [[(0, 2), (1, 2)], [(1, 2), (0, 2)]]


def test_no_more_workers_share_a_way_than_it_has_queue_pairs() -> None:
    fakes = Fakes()
    switch(fakes, "a.sock,queues=2", "b.sock", cores=3)
    assert [worker.shares for worker in fakes.workers] == [[(0, 2)], [(1, 2), (0, 1)], []]


@pytest.mark.parametrize(
    ("ports", "most"),
    [
        (("a.sock", "b.sock"), 2),
        (("a.sock,queues=4", "b.sock"), 4),
        (("a.sock", "b.sock,queues=4"), 5),
        (("a.sock,queues=3", "b.sock,queues=3", "c.sock", "null:"), 4),
        (("a.sock", "null:"), 1),
        (("null:", "a.sock,queues=2"), 2),
        (("a.sock", "null:", "b.sock", "null:,name=n"), 2),
    ],
)
def test_every_worker_up_to_the_most_has_work_and_one_more_has_none(ports: tuple[str, ...], most: int) -> None:
    for cores in range(1, most + 2):
        fakes = Fakes()
        assert switch(fakes, *ports, cores=cores, forward="patch").wiring.config.most_workers == most
        assert [bool(worker.wires) for worker in fakes.workers] == [number < most for number in range(cores)]


def test_a_port_without_a_wire_is_polled_so_that_its_guest_does_not_hang() -> None:
    fakes = Fakes()
    switch(fakes, "a.sock", "b.sock", "c.sock", wire=["a:b"])
    assert ("c", None, True, 100) in fakes.workers[0].wires


def test_holding_is_the_default_and_dropping_a_choice() -> None:
    fakes = Fakes()
    switch(fakes, "a.sock", "b.sock", hold_timeout="2s")
    switch(fakes, "a.sock", "b.sock", on_full="drop")
    assert [worker.wires[0][2:] for worker in fakes.workers] == [(True, 2000), (False, 100)]


def test_sockets_listen_before_workers_poll_and_guests_are_answered_last() -> None:
    fakes = Fakes()
    running = switch(fakes, "a.sock", "b.sock")
    running.start()
    deadline = time.monotonic() + MAX_WAIT
    while "run worker0" not in fakes.log and time.monotonic() < deadline:
        time.sleep(0.001)
    assert fakes.log[:3] == ["prepare worker0", "open a", "open b"]
    assert set(fakes.log[3:]) == {"run worker0", "start a", "start b"}
    assert running.halt(MAX_WAIT)
    assert fakes.log[6:] == ["withdraw a", "withdraw b", "stop worker0", "stop a", "stop b"]
    running.close()
    assert fakes.log[11:] == ["close a", "close b"]


def test_workers_that_cannot_notify_by_themselves_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    fakes = Fakes(moods={"worker0": "unprepared", "worker1": "unprepared"})
    running = switch(fakes, "a.sock", "b.sock", cores=2)
    running.start()
    assert running.halt(MAX_WAIT)
    assert [message for message in caplog.messages if "no room" in message] == [
        "guests are notified by threads of their ports, which is slower: no room"
    ]


def test_a_socket_that_cannot_be_made_is_one_sentence_and_leaves_nothing_running() -> None:
    fakes = Fakes(refuses={"b": "b.sock: somebody listens there"})
    running = switch(fakes, "a.sock", "b.sock")
    with pytest.raises(RuntimeFailure, match=r"b\.sock: somebody listens there"):
        running.start()
    assert "stop a" in fakes.log
    assert "run worker0" not in fakes.log


@pytest.mark.parametrize(("mood", "said"), [("raises", "out of rounds"), ("ends", "ended by itself")])
def test_a_worker_that_ends_unasked_is_a_failure(mood: str, said: str) -> None:
    running = switch(Fakes(moods={"worker0": mood}), "a.sock", "b.sock")
    running.start()
    running.wiring.workers[0].join(MAX_WAIT)
    assert said in running.failure
    running.halt(MAX_WAIT)


def test_a_worker_that_ends_when_told_to_is_no_failure() -> None:
    running = switch(Fakes(), "a.sock", "b.sock")
    running.start()
    assert running.halt(MAX_WAIT)
    assert running.failure == ""


def test_a_stuck_worker_does_not_keep_the_switch_from_stopping() -> None:
    fakes = Fakes(moods={"worker0": "stuck"})
    running = switch(fakes, "a.sock", "b.sock")
    running.start()
    try:
        assert not running.halt(0.2)
        assert "stop b" in fakes.log
        assert not fakes.workers[0].released.is_set()
        assert running.wiring.workers[0].is_alive()
    finally:
        fakes.workers[0].released.set()


def test_ports_that_are_stuck_share_the_time_of_a_stop_and_take_none_from_the_others() -> None:
    names = [f"p{number}" for number in range(20)]
    fakes = Fakes(moods=dict.fromkeys(names[:19], "late"))
    running = switch(fakes, *(f"{name}.sock" for name in names))
    running.start()
    assert not running.halt(0.5)
    assert 0.3 < sum(fakes.waits) < 0.6
    # Every one is asked before any is waited for.
    asked = [line.removeprefix("stop ") for line in fakes.log if line.startswith("stop p")]
    assert asked == [*names, *names[:19]]


def test_whatever_else_goes_wrong_while_it_starts_leaves_nothing_listening() -> None:
    fakes = Fakes(refuses={"b": "unused"})
    running = switch(fakes, "a.sock", "b.sock")
    running.wiring.ports[1].service.open = lambda: 1 // 0  # type: ignore[union-attr, method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        running.start()
    assert {"withdraw a", "stop a"} <= set(fakes.log)


def test_a_worker_runs_on_its_core_and_nowhere_else() -> None:
    seen: list[set[int]] = []
    fakes = Fakes()
    core = max(os.sched_getaffinity(0))
    settings = config.build({"port": ["a.sock", "b.sock"]})
    running = Switch.of(settings, plan(core), fakes.parts())
    fakes.workers[0].run = lambda: seen.append(set(os.sched_getaffinity(0)))  # type: ignore[method-assign]
    running.start()
    running.wiring.workers[0].join(MAX_WAIT)
    assert seen == [{core}]
    assert os.sched_getaffinity(0) != {core} or len(os.sched_getaffinity(0)) == 1
    running.halt(MAX_WAIT)


def test_describe_knows_every_port_and_its_other_end() -> None:
    running = switch(Fakes(), "a.sock", "b.sock,mode=client,queues=2", "null:", wire=["a:b"])
    first, second, third = running.describe()
    assert (first["wired_to"], second["wired_to"], third["wired_to"]) == ("b", "a", None)
    assert (second["mode"], second["queue_pairs"], second["peer"]) == ("client", 2, None)
    with pytest.raises(KeyError):
        running.describe("z")


def test_ports_are_described_part_by_part_those_that_have_so_many_rings_together() -> None:
    running = switch(Fakes(), *(f"{name}.sock" for name in "abcde"), wire=["a:b"])
    told, parts, rest = [], [], 0
    while rest is not None:
        some, rest = running.describe_from(rest, rings=3)
        told += some
        parts.append(len(some))
    assert told == running.describe()
    assert parts == [2, 2, 1]
    assert running.describe_from(99) == ([], None)
