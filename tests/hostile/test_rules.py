"""Each rule of a ring, broken on each ring format and each queue that has it, at a port of this process.

Alone in a ring, and behind good chains, which arrive: nobody has to take a break back, since a bad chain ends what is
taken of a ring, and stops the ring only where it has become the first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from fastvhost.dataplane.ring import SENTENCES
from tests.hostile.rules import RECEIVEQ, RULES, TRANSMITQ, Rule, Side, breaks
from tests.hostile.scene import Attacker
from tests.hostile.stepped_scene import check_unmapped, run
from tests.probes.bench_dataplane import take_chains

Case = tuple[Rule, int, str]
"""A rule, a queue and a ring format."""
CASES = [(rule, queue, ring) for rule in RULES.values() for queue in rule.queues for ring in rule.rings]
GOOD = 3
"""Chains before the bad one."""
BEHIND = [case for case in CASES if not case[0].itself]


ELSEWHERE = ("65535 pieces", "no shared memory region any more", "a defect of fastvhost")
"""What a ring is broken by that no bytes in a ring of 256 lead to."""


def name_of(case: Case) -> str:
    rule, queue, ring = case
    return f"{rule.called(queue)}-{ring}"


@pytest.fixture(scope="module", autouse=True)
def unmapped() -> Iterator[None]:
    yield
    check_unmapped()


def test_each_status_that_a_ring_can_have_stands_in_a_row() -> None:
    without = [each for each in SENTENCES if not any(rule.status in each for rule in RULES.values())]
    assert [each for each in without if each and not any(words in each for words in ELSEWHERE)] == []


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_broken_rule_stops_its_ring_once_for_that_reason_and_set_up_anew_it_works(case: Case) -> None:
    rule, queue, ring = case
    run(lambda scene: breaks(scene, rule, queue), ring)


@pytest.mark.parametrize("case", BEHIND, ids=name_of)
def test_behind_good_chains_it_stops_the_ring_only_where_it_has_become_the_first(case: Case) -> None:
    rule, queue, ring = case
    run(partial((stopped_receiveq, stopped_transmitq)[queue], rule), ring)


def seen_when_filled(rule: Rule) -> bool:
    """Of a chain that is too short, not when it is taken, but when a frame is to go into it."""
    return rule.status == "too short"


def told_once(scene: Any, guest: Attacker, index: int) -> None:
    """By this queue alone, however long one looks."""
    scene.let_rounds_pass()
    assert os.eventfd_read(guest.errs[index]) == 1
    with pytest.raises(BlockingIOError):
        os.eventfd_read(guest.errs[1 - index])


def offered(scene: Any, side: Side, rule: Rule, *good: int) -> None:
    """All at once, the bad chain before the last good one; taken and given back as often as one likes."""
    bad = rule.lay(side)
    assert bad is not None
    side.queue.offer(*good[:GOOD], bad, *good[GOOD:])
    for _ in range(2):
        taken = take_chains(scene.stepped.ports["a"], side.index, 2)
        assert taken == GOOD or seen_when_filled(rule)
        assert scene.stepped.why("a", side.index) == ""


def stopped_transmitq(rule: Rule, scene: Any) -> None:
    guest = rule.boot(scene)
    side, frames = Side(scene, guest, TRANSMITQ), [scene.frame() for _ in range(GOOD + 1)]
    heads = [side.chain(guest.piece(guest.packet(frame))) for frame in frames]
    offered(scene, side, rule, *heads)
    worker = scene.stepped.worker
    assert worker.step() == GOOD
    assert (scene.stepped.why("a", TRANSMITQ), scene.new_drops()) == ("", {})
    assert worker.step() == 0
    assert rule.status in scene.stepped.why("a", TRANSMITQ)
    told_once(scene, guest, TRANSMITQ)
    assert scene.victim.net.receive_all() == frames[:GOOD]
    scene.returned(guest, heads[:GOOD])
    assert scene.new_drops() == {"bad_descriptor": 1}
    assert scene.stepped.ports["a"].counters().rx_dropped["bad_descriptor"] == 1
    scene.works(guest, RECEIVEQ)  # the other direction goes on


def stopped_receiveq(rule: Rule, scene: Any) -> None:
    guest = rule.boot(scene)
    side, rooms = Side(scene, guest, RECEIVEQ), guest.room(*[2048] * (GOOD + 1))
    heads = [side.chain(piece) for piece in rooms]
    guest.net.receive_buffers.update({head: [piece] for head, piece in zip(heads, rooms, strict=True)})
    offered(scene, side, rule, *heads)
    worker, frames = scene.stepped.worker, [scene.frame() for _ in range(GOOD + 2)]
    scene.victim.net.send_at_once(*frames)
    if seen_when_filled(rule):
        assert worker.step() == GOOD + 1
    else:
        assert worker.step() == GOOD
        assert (scene.stepped.why("a", RECEIVEQ), scene.new_drops()) == ("", {})
        assert worker.step() == 1  # the frame that is for the bad chain
    assert rule.status in scene.stepped.why("a", RECEIVEQ)
    told_once(scene, guest, RECEIVEQ)
    assert scene.new_drops() == {"bad_descriptor": 1, "ring_disabled": 1}  # the other two frames, each once
    assert [guest.net.receive(0.0, repost=False) for _ in range(GOOD)] == frames[:GOOD]
    assert guest.net.receive_all() == []
    assert scene.stepped.ports["a"].counters().tx_dropped["bad_descriptor"] == 1
    scene.works(guest, TRANSMITQ)
    scene.victim.net.wait_sent(scene.max_wait)
