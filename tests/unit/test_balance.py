"""What ports send is spread over the workers by what it costs, and moved only where that pays."""

from __future__ import annotations

import pytest

from fastvhost.control import config
from fastvhost.control.balance import Balance, Move, ShareLoad, best
from fastvhost.control.host import CorePlan
from fastvhost.control.switch import Switch
from tests.unit.fake_parts import Fakes


def loads(*of_workers: dict[str, float]) -> list[ShareLoad]:
    """By worker: what each port takes of its core."""
    return [ShareLoad(port, 0, number, busy) for number, ports in enumerate(of_workers) for port, busy in ports.items()]


def moved(*of_workers: dict[str, float], resting: frozenset[tuple[str, int]] = frozenset()) -> tuple[str, int] | None:
    move = best(loads(*of_workers), [1.0] * len(of_workers), resting)
    return (move.port, move.target) if move else None


def test_what_evens_two_workers_most_is_moved() -> None:
    assert moved({"a": 0.5, "b": 0.3, "c": 0.15}, {"d": 0.1}) == ("a", 1)
    assert moved({"a": 0.7, "b": 0.3}, {"d": 0.1}) == ("b", 1)
    assert moved({"d": 0.1}, {"a": 0.5, "b": 0.4}, {"e": 0.3}) == ("b", 0)


@pytest.mark.parametrize(
    "of_workers",
    [
        ({"a": 1.0}, {"b": 0.0}),                # one load is not less elsewhere
        ({"a": 0.95, "b": 0.01}, {"c": 0.0}),    # and little of it helps little
        ({"a": 0.2, "b": 0.15}, {"c": 0.0}),     # nobody is short of time
        ({"a": 0.5, "b": 0.45}, {"c": 0.9}),
        ({"a": 0.5, "b": 0.5}, {"c": 0.5, "d": 0.5}),
        ({}, {}),
    ],
)  # fmt: skip
def test_where_nothing_is_gained_everything_stays(of_workers: tuple[dict[str, float], ...]) -> None:
    assert moved(*of_workers) is None


def test_a_worker_without_its_core_half_of_the_time_has_twice_as_much_to_do() -> None:
    busy = loads({"a": 0.2, "b": 0.15}, {"c": 0.05})
    assert best(busy, [1.0, 1.0]) is None    # nobody is short of time
    move = best(busy, [0.5, 1.0])
    assert move is not None
    assert move.port == "a"
    assert (move.before, move.after) == (pytest.approx((0.7, 0.05)), pytest.approx((0.3, 0.25)))
    assert best(busy, [0.5, 0.1]) is None    # the other one has less time still


def test_a_share_does_not_join_another_one_of_its_port_and_what_was_just_moved_rests() -> None:
    busy = [ShareLoad("a", 0, 0, 0.5), ShareLoad("b", 0, 0, 0.5), ShareLoad("a", 1, 1, 0.1)]
    move = best(busy, [1.0, 1.0])
    assert move is not None
    assert (move.port, move.share, move.before, move.after) == ("b", 0, (1.0, 0.1), (0.5, 0.6))
    assert moved({"a": 0.5, "b": 0.5}, {"c": 0.0}, resting=frozenset({("a", 0), ("b", 0)})) is None


class Clock:
    """A balance whose workers spend time as the test says."""

    def __init__(self) -> None:
        self.now, self.seconds = 100.0, dict[tuple[str, int, int], float]()
        self.moves: list[str] = []
        self.may = True
        self.waits = [30.0, 0.0]
        self.balance = Balance(lambda: dict(self.seconds), lambda: list(self.waits), self.move)

    def move(self, move: Move) -> bool:
        if self.may:
            self.moves.append(f"{move.port} to {move.target}")
            self.seconds[move.port, move.share, move.target] = 0.0
            del self.seconds[move.port, move.share, move.worker]
        return self.may

    def pass_second(self, **busy: float) -> None:
        for port, share, worker in list(self.seconds):
            self.seconds[port, share, worker] += busy.get(port, 0.0)
        self.now += 1.0
        self.balance.look(self.now)


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.seconds = {("a", 0, 0): 5.0, ("b", 0, 0): 7.0, ("c", 0, 1): 9.0}
    made.pass_second()
    return made


def test_a_move_comes_with_the_second_look_that_wants_it(clock: Clock) -> None:
    clock.pass_second(a=0.5, b=0.4)
    assert clock.moves == []
    clock.balance.look(clock.now + 0.5)    # too soon
    assert clock.moves == []
    clock.pass_second(a=0.5, b=0.4)
    assert clock.moves == ["b to 1"]


def test_a_second_of_load_moves_nothing(clock: Clock) -> None:
    for _ in range(5):
        clock.pass_second(a=0.5, b=0.4)
        clock.pass_second(a=0.5)
    assert clock.moves == []


def test_time_in_which_a_worker_waits_for_its_core_is_none_that_it_has(clock: Clock) -> None:
    for _ in range(3):
        clock.pass_second(a=0.15, b=0.16)
    assert clock.moves == []
    for _ in range(2):
        clock.waits[0] += 0.6
        clock.pass_second(a=0.15, b=0.16)
    assert clock.moves == ["b to 1"]


def test_a_wait_that_the_kernel_counts_late_is_not_longer_than_the_time_since(clock: Clock) -> None:
    clock.waits[0] += 50.0
    clock.pass_second(a=0.01)
    assert clock.moves == []
    clock.waits[0] -= 100.0    # another thread, say
    clock.pass_second(a=0.01)
    assert clock.moves == []


def test_what_was_moved_stays_for_ten_seconds(clock: Clock) -> None:
    for _ in range(2):
        clock.pass_second(a=0.5, b=0.4)
    for _ in range(9):
        clock.pass_second(b=0.5, c=0.45)
    assert clock.moves == ["b to 1", "c to 0"]
    for _ in range(9):
        clock.pass_second(a=0.4, c=0.5)
    assert clock.moves == ["b to 1", "c to 0", "a to 1"]


def test_a_move_that_cannot_be_now_is_tried_again(clock: Clock) -> None:
    clock.may = False
    for _ in range(4):
        clock.pass_second(a=0.5, b=0.4)
    clock.may = True
    clock.pass_second(a=0.5, b=0.4)
    assert clock.moves == ["b to 1"]


def test_during_a_change_nothing_is_known_and_the_next_look_takes_all_the_time_since(clock: Clock) -> None:
    kept = clock.seconds
    clock.pass_second(a=0.5, b=0.4)
    clock.seconds = {}
    clock.pass_second()
    clock.seconds = kept
    clock.pass_second(a=1.0, b=0.8)    # of two seconds
    assert clock.moves == ["b to 1"]


# A switch


def switch_of(fakes: Fakes) -> Switch:
    settings = config.build({"port": ["a.sock", "b.sock", "c.sock", "d.sock"], "wire": ["a:b", "c:d"]})
    return Switch.of(settings, CorePlan((0, 1), frozenset({0}), frozenset({0, 1})), fakes.parts())


def busy_for(switch: Switch, fakes: Fakes, seconds: int) -> None:
    for second in range(seconds):
        fakes.workers[0].spent = {"a": 0.5 * second, "c": 0.4 * second}
        switch.tick(1000.0 + second)


def test_a_switch_hands_a_wire_to_the_worker_with_less_to_do(caplog: pytest.LogCaptureFixture) -> None:
    fakes = Fakes()
    switch = switch_of(fakes)
    assert [thread.wires for thread in switch.wiring.workers] == [[("a", "b"), ("c", "d")], [("b", "a"), ("d", "c")]]
    with caplog.at_level("INFO"):
        busy_for(switch, fakes, 4)
    assert fakes.log[-1] == "move c worker1 within 50 ms"
    assert switch.wiring.workers[1].wires == [("b", "a"), ("c", "d"), ("d", "c")]
    assert [record.message for record in caplog.records if "instead of" in record.message] == [
        "port c: worker1 does it instead of worker0 (busy 50% and 40%, not 90% and 0%)"
    ]


def test_no_other_change_comes_between_a_move_and_what_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()
    switch = switch_of(fakes)
    wiring, seen = switch.wiring, list[tuple[bool, int]]()
    look = lambda: seen.append((wiring._lock.locked(), len(wiring.workers[1].wires)))  # noqa: E731
    monkeypatch.setattr(wiring, "_watch_anew", look)
    busy_for(switch, fakes, 4)
    assert seen == [(True, 3)]


def test_nothing_is_moved_that_is_not_there_any_more_or_while_a_switch_ends() -> None:
    fakes = Fakes()
    wiring = switch_of(fakes).wiring
    move = Move("c", 0, 0, 1, (0.9, 0.0), (0.5, 0.4))
    assert not wiring.hand_over(Move("c", 1, 0, 1, (0.9, 0.0), (0.5, 0.4)))
    assert not wiring.hand_over(Move("e", 0, 0, 1, (0.9, 0.0), (0.5, 0.4)))
    assert wiring.hand_over(move)
    assert not wiring.hand_over(move)    # another worker has it now
    wiring.end_changes()
    assert not wiring.hand_over(Move("a", 0, 0, 1, (0.5, 0.4), (0.0, 0.9)))
    assert wiring.loads() == {}


@pytest.mark.parametrize("refusal", ["waits", "stuck"])
def test_a_worker_that_does_not_come_keeps_what_it_has(refusal: str) -> None:
    fakes = Fakes()
    switch = switch_of(fakes)
    fakes.rewirings[0].moves = refusal != "waits"
    fakes.rewirings[0].refuses = RuntimeError("worker0 has not come to the door") if refusal == "stuck" else None
    busy_for(switch, fakes, 4)
    assert switch.wiring.workers[0].wires == [("a", "b"), ("c", "d")]
