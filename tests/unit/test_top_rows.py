"""What `fastvhost top` computes from two answers of a fwd, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest

from fastvhost.cli.live.drops import KEPT_SECONDS, RecentDrops
from fastvhost.cli.live.rows import PortRow, Reading, reading
from fastvhost.control import config, control_client, live_figures
from fastvhost.control.errors import RuntimeFailure
from fastvhost.control.host import CorePlan
from fastvhost.control.switch import Switch
from fastvhost.dataplane.queue_view import QueueState
from tests.unit.fake_parts import Fakes

Answer = dict[str, Any]


def port(number: int = 0, **more: Any) -> Answer:
    zero = dict.fromkeys(("rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "calls"), 0)
    return {"number": number, "kind": "vhost-user", "link": "up", "rx_dropped": {}, "tx_dropped": {}, **zero, **more}


def rings(**more: Any) -> Answer:
    return {"free": 1.0, "queued": 0.0, "starved": {}, "kicks": 0, "broken": 0, **more}


def worker(**more: Any) -> Answer:
    zero = {"rounds": 0, "busy_rounds": 0, "sleeps": 0, "busy_seconds": 0.0, "waiting": 0}
    return {"core": 3, "last_core": 3, **zero, **more}


def answer(uptime: float, ports: dict[str, Answer], started: float = 7.5, **workers: Answer) -> Answer:
    return {"version": "1", "started": started, "uptime": uptime, "ports": ports, "workers": workers}


def row(made: Reading, name: str = "a") -> PortRow:
    (found,) = [one for one in made.ports if one.name == name]
    return found


# Rates


def test_rates_are_what_came_between_two_readings_a_second() -> None:
    before = answer(10.0, {"a": port(rx_frames=100, rx_bytes=6_000, tx_frames=1, tx_bytes=60, calls=7)})
    now = answer(12.0, {"a": port(rx_frames=700, rx_bytes=42_000, tx_frames=5, tx_bytes=300, calls=17)})
    made = row(reading(now, before))
    assert (made.rx_rate, made.rx_bits, made.tx_rate, made.tx_bits) == (300, 144_000, 2, 960)
    assert made.call_rate == 5
    assert (made.rx_frames, made.tx_frames) == (700, 5)


def test_a_first_reading_has_totals_and_no_rates() -> None:
    made = reading(answer(10.0, {"a": port(rx_frames=5, tx_dropped={"no_egress": 2})}, worker0=worker()), None)
    assert (row(made).rx_frames, row(made).rx_rate, row(made).drop_rate, row(made).starved) == (5, None, None, None)
    assert (made.seconds, made.sum("rx_rate"), made.workers[0].busy) == (0, None, None)
    assert [(one.rate, one.total) for one in made.drops] == [(None, 2)]


def test_a_fwd_that_was_started_again_has_no_rates_until_its_second_reading_however_much_it_moved() -> None:
    before = answer(1.0, {"a": port(rx_frames=100)}, started=50.0, worker0=worker())
    now = answer(2.0, {"a": port(rx_frames=900)}, started=51.5, worker1=worker())
    assert row(reading(now, before)).rx_rate is None
    assert row(reading(answer(3.0, {"a": port(rx_frames=901)}, started=51.5, worker1=worker()), now)).rx_rate == 1


def test_a_port_that_came_has_no_rates_yet_and_one_that_went_has_no_row() -> None:
    before = answer(1.0, {"a": port(rx_frames=5), "gone": port(1)})
    now = answer(2.0, {"a": port(rx_frames=9), "new": port(2, rx_frames=7, rx_dropped={"no_egress": 7})})
    made = reading(now, before)
    assert [(one.name, one.rx_rate) for one in made.ports] == [("a", 4), ("new", None)]
    assert [(one.port, one.rate, one.total) for one in made.drops] == [("new", None, 7)]
    assert made.sum("rx_rate") == 4


def test_a_port_that_was_made_anew_has_no_rates_below_nothing() -> None:
    before = answer(1.0, {"a": port(rx_frames=500, calls=9, rx_dropped={"no_egress": 3})})
    made = reading(answer(2.0, {"a": port(rx_frames=2, rx_dropped={"no_egress": 1})}), before)
    assert (row(made).rx_rate, row(made).call_rate, row(made).drop_rate) == (None, None, None)
    assert made.drops[0].rate is None


def test_drops_have_their_reason_and_side_and_a_reason_that_is_new_began_at_nothing() -> None:
    before = answer(1.0, {"a": port(rx_dropped={"no_egress": 10})})
    now = answer(3.0, {"a": port(rx_dropped={"no_egress": 10}, tx_dropped={"no_receive_buffers": 8})})
    made = reading(now, before)
    assert [(one.side, one.reason, one.rate, one.total) for one in made.drops] == [
        ("from", "no_egress", 0, 10), ("towards", "no_receive_buffers", 4, 8),
    ]  # fmt: skip
    assert (row(made).drop_rate, row(made).dropped) == (4, 18)


def test_a_port_starves_as_its_worst_queue_does() -> None:
    before = answer(1.0, {"a": port(rings=rings(starved={"0": 5.0, "1": 1.0}))})
    now = answer(3.0, {"a": port(rings=rings(starved={"0": 5.5, "1": 2.5, "7": 0.2}))})
    assert row(reading(now, before)).starved == 0.75


def test_shares_are_shares_also_where_readings_are_not_made_at_the_very_moment() -> None:
    before = answer(1.0, {"a": port(rings=rings(starved={"0": 1.0}))}, worker0=worker())
    now = answer(2.0, {"a": port(rings=rings(starved={"0": 2.01}))}, worker0=worker(busy_seconds=1.02))
    made = reading(now, before)
    assert (row(made).starved, made.workers[0].busy) == (1, 1)


def test_a_guest_that_connects_again_has_its_figures_from_the_next_reading_on() -> None:
    with_guest, without = port(rings=rings(kicks=50, starved={"0": 1.0})), port(link="down")
    gone = row(reading(answer(2.0, {"a": without}), answer(1.0, {"a": with_guest})))
    assert (gone.free, gone.queued, gone.starved, gone.kick_rate) == (None, None, None, None)
    back = row(reading(answer(2.0, {"a": with_guest}), answer(1.0, {"a": without})))
    assert (back.free, back.starved) == (1, None)
    anew = port(rings=rings(kicks=4, starved={"0": 1.0}))
    assert row(reading(answer(3.0, {"a": anew}), answer(2.0, {"a": with_guest}))).kick_rate == 4


def test_a_worker_is_busy_for_the_share_of_time_in_which_frames_moved() -> None:
    before = answer(1.0, {}, worker0=worker(busy_seconds=4.0, sleeps=10))
    now = answer(3.0, {}, worker0=worker(busy_seconds=4.5, sleeps=30, waiting=6, core=None))
    (made,) = reading(now, before).workers
    assert (made.busy, made.sleep_rate, made.waiting, made.core, made.last_core) == (0.25, 10, 6, None, 3)


# What is no answer of a fwd


GOOD = answer(2.0, {"a": port(rings=rings(), rx_dropped={"no_egress": 1})}, worker0=worker())


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("ports",), []),
        (("ports",), None),
        (("ports", "a"), 5),
        (("ports", "a", "rx_frames"), "5"),
        (("ports", "a", "rx_frames"), -1),
        (("ports", "a", "rx_frames"), float("nan")),
        (("ports", "a", "tx_bytes"), float("inf")),
        (("ports", "a", "tx_bytes"), 10**400),
        (("ports", "a", "name"), None),
        (("ports", "a", "kind"), 5),
        (("ports", "a", "number"), True),
        (("ports", "a", "rx_dropped"), {"x": "many"}),
        (("ports", "a", "rings", "free"), "full"),
        (("ports", "a", "rings", "starved"), [1]),
        (("ports", "a", "calls"), {}),
        (("workers", "worker0", "busy_seconds"), None),
        (("workers", "worker0", "core"), "3"),
        (("uptime",), "long"),
        (("started",), None),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else str(value)[:9],
)
def test_an_answer_that_is_no_fwd_s_is_refused_in_one_sentence(where: tuple[str, ...], value: object) -> None:
    bad: Any = copy.deepcopy(GOOD)
    place = bad
    for key in where[:-1]:
        place = place[key]
    if where == ("ports", "a", "name"):
        del bad["ports"]["a"]["number"]
    else:
        place[where[-1]] = value
    before = {**copy.deepcopy(GOOD), "uptime": 1.0}
    if where == ("started",):
        del bad["started"]
    with pytest.raises(RuntimeFailure, match="not fastvhost's"):
        control_client.understood(lambda now: reading(now, before), bad)


def test_text_of_others_cannot_steer_a_terminal() -> None:
    ports = {"a\x1b[2J": port(kind="k\n", link="\x07", rx_dropped={"r\x9b": 1})}
    made = reading(answer(1.0, ports, **{"w\r": worker()}), None)
    said = repr((made.ports[0].name, made.ports[0].kind, made.ports[0].link, made.drops, made.workers))
    assert json.dumps(said).isprintable()
    assert "\\x1b[2J" in made.ports[0].name
    assert made.ports[0].name.isprintable()


# Drops as they happen


def dropping(count: int, uptime: float, reason: str = "storm") -> Answer:
    return answer(uptime, {"a": port(rx_dropped={reason: count})})


def test_a_drop_is_told_while_it_happens_and_for_a_minute_after_it_ended() -> None:
    drops = RecentDrops()
    answers = [dropping(0, 1.0), dropping(5, 2.0), dropping(5, 3.0), dropping(5, 4.0)]
    for at, (before, now) in enumerate(itertools.pairwise(answers)):
        drops.note(reading(now, before), float(at))
        (seen,) = drops.list()
        assert (seen.row.total, seen.ended) == (5, at or None)
    drops.note(reading(dropping(5, 90.0), answers[-1]), KEPT_SECONDS + 1.5)
    assert drops.list() == []


def test_what_drops_most_now_comes_first_and_what_ended_last_before_what_ended_earlier() -> None:
    drops = RecentDrops()
    counts = {"first": 1, "second": 1, "few": 0, "many": 0}
    before = answer(0.0, {"a": port(rx_dropped=dict(counts))})
    for at, grows in enumerate((("first",), ("second",), ("few", "many", "many"))):
        for reason in grows:
            counts[reason] += 1
        now = answer(at + 1.0, {"a": port(rx_dropped=dict(counts))})
        drops.note(reading(now, before), float(at))
        before = now
    assert [one.row.reason for one in drops.list()] == ["many", "few", "second", "first"]


def test_the_drops_of_a_port_that_went_are_forgotten_and_a_reading_without_rates_changes_nothing() -> None:
    drops = RecentDrops()
    drops.note(reading(dropping(5, 2.0), dropping(0, 1.0)), 0.0)
    drops.note(reading(dropping(9, 3.0), None), 1.0)
    assert len(drops.list()) == 1
    drops.note(reading(answer(4.0, {}), dropping(9, 3.0)), 2.0)
    assert drops.list() == []


# What fwd answers


def ring(index: int, available: int, size: int = 256, **more: Any) -> QueueState:
    state = QueueState(index, size, True, True, True, "", 0, 0, 0, 0, 0, False, False, 2, 0.0, available)
    return state._replace(**more)


def test_the_answer_has_what_moves_and_leaves_out_reasons_for_which_nothing_was_dropped() -> None:
    fakes = Fakes()
    settings = config.build({"port": ["a.sock", "b.sock"]})
    switch = Switch.of(settings, CorePlan((3,), frozenset({0}), frozenset({0})), fakes.parts())
    fakes.ports["a"].figures = {
        "rx_frames": 7, "calls": 3, "rx_dropped": {"link_down": 2, "storm": 0},
        "rings": [
            ring(0, 200), ring(2, 16, starved_seconds=1.5), ring(1, 0), ring(3, 64, broken="a loop"), ring(5, 0, 0),
        ],
    }  # fmt: skip
    fakes.workers[0].busy_seconds = 2.0
    told = live_figures.figures(switch.wiring)
    assert told["ports"]["a"]["rx_dropped"] == {"link_down": 2}
    assert told["ports"]["a"]["rings"] == {
        "free": 0.0625, "queued": 0.25, "starved": {1: 1.5}, "kicks": 10, "broken": 1,
    }  # fmt: skip
    assert "rings" not in told["ports"]["b"]
    made = reading(json.loads(json.dumps(told)), None)
    assert (row(made).free, row(made).queued, row(made).broken, row(made).rx_frames) == (0.0625, 0.25, 1, 7)
    assert (made.workers[0].name, made.workers[0].core) == ("worker0", 3)
