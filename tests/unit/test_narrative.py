"""A port's log: a line per step, a cause for a missing one, and warnings only where something is wrong."""

from __future__ import annotations

import logging

import pytest

from fastvhost.backend import advice
from fastvhost.backend.logbook import BURST, PER_SECOND, Line, Logbook
from fastvhost.backend.narrative import PATIENCE, SETTLE, Narrative, RingView, View
from fastvhost.backend.rings import LEFT_STANDING, ConfiguredRing
from tests.unit.session_bench import Clock


class Story:
    """A narrative, its clock, and what it says."""

    def __init__(self, mode: str = "server") -> None:
        self.clock = Clock()
        listens, connects = advice.by_listening("/run/a.sock", "mode 0660"), advice.by_connecting("/run/a.sock")
        self.narrative = Narrative(listens if mode == "server" else connects, self.clock)
        self.view = View(None, ())

    def said(self) -> list[str]:
        lines = self.narrative.take()
        assert all(line.level < logging.WARNING for line in lines), lines
        return [line.text for line in lines]

    def warned(self) -> list[str]:
        lines = self.narrative.take()
        assert all(line.level >= logging.WARNING for line in lines), lines
        return [line.text for line in lines]

    def after(self, seconds: float) -> None:
        """Let time go by as the control thread does: wake at every deadline."""
        end = self.clock.now + seconds
        while (deadline := self.narrative.deadline) is not None and deadline <= end:
            self.clock.now = max(self.clock.now, deadline)
            self.narrative.tick(lambda: self.view)
        self.clock.now = end
        self.narrative.tick(lambda: self.view)

    def reach(self, step: str) -> None:
        """All steps up to one, without listening to them."""
        self.narrative.waiting()
        for name, happen in (
            ("connected", lambda: self.narrative.connected(7)),
            ("spoke", self.narrative.spoke),
            ("features", lambda: self.narrative.features(["VERSION_1"])),
            ("memory", lambda: self.narrative.memory(1, 1 << 20)),
            ("rings", lambda: self.narrative.rings(rings(0, 1))),
        ):
            if step == "listening":
                break
            happen()
            if name == step:
                break
        if step in ("memory", "rings"):
            self.after(2 * SETTLE)
        self.narrative.take()


def rings(*running: int, size: int = 256, enabled: bool = True) -> list[ConfiguredRing]:
    return [ConfiguredRing(index, size=size, live=index in running, enabled=enabled) for index in range(4)]


def test_every_step_is_one_line_in_order() -> None:
    story = Story()
    narrative = story.narrative
    narrative.waiting()
    assert narrative.state == "listening"
    narrative.connected(4711)
    assert narrative.state == "connected"
    narrative.spoke()
    narrative.features(["MRG_RXBUF", "VERSION_1"])
    assert narrative.state == "features"
    narrative.memory(1, 1 << 30)
    narrative.memory(2, 3 << 30)
    assert narrative.state == "memory"
    narrative.rings(rings(0))
    narrative.rings(rings(0, 1))
    assert narrative.state == "rings"
    story.after(2 * SETTLE)
    narrative.first_packet()
    narrative.first_packet()
    assert narrative.state == "first packet"
    assert story.said() == [
        "listening on /run/a.sock",
        "connected to process 4711",
        "features MRG_RXBUF VERSION_1",
        "memory 2 regions, 3 GiB",
        "rings 0 1 running, size 256",
        "first packet from the guest",
    ]
    story.after(60)
    assert story.said() == []


def test_a_first_packet_is_never_said_before_the_steps_that_led_to_it() -> None:
    story = Story()
    story.reach("features")
    story.narrative.memory(1, 1 << 20)
    story.narrative.rings(rings(0, 1))
    story.narrative.first_packet()
    assert story.said() == ["memory 1 region, 1 MiB", "rings 0 1 running, size 256", "first packet from the guest"]


def test_a_reboot_stops_the_rings_and_starts_them_and_repeats_no_other_step() -> None:
    story = Story()
    story.reach("rings")
    story.narrative.rings(rings())
    assert story.narrative.state == "memory"
    story.after(1)
    story.narrative.features(["VERSION_1"])
    story.narrative.memory(1, 1 << 20)
    story.narrative.rings(rings(0, 1))
    story.after(1)
    assert story.said() == ["rings stopped", "rings 0 1 running, size 256"]


def test_a_quick_restart_of_the_rings_is_no_news() -> None:
    story = Story()
    story.reach("rings")
    story.narrative.rings(rings(1))
    story.narrative.rings(rings(0, 1))
    story.after(1)
    assert story.said() == []


def test_the_end_of_a_connection_is_said_and_the_next_one_begins_anew() -> None:
    story = Story()
    story.reach("features")
    story.narrative.disconnected("the front-end closed")
    story.narrative.connected(8)
    story.narrative.features(["VERSION_1"])
    assert story.said() == [
        "disconnected: the front-end closed; listening again",
        "connected to process 8",
        "features VERSION_1",
    ]


def test_in_client_mode_it_connects_instead_of_listening() -> None:
    story = Story("client")
    story.narrative.waiting()
    assert story.narrative.state == "connecting"
    story.narrative.cannot_connect("nobody listens there")
    story.after(PATIENCE)
    first, missing = story.said()
    assert first == "connecting to /run/a.sock"
    assert "nobody listens there" in missing
    assert "path=/run/a.sock,server=on" in missing


# A step that is missing


def test_nobody_connecting_is_said_once_with_the_line_that_connects() -> None:
    story = Story()
    story.reach("listening")
    story.after(PATIENCE - 0.01)
    assert story.said() == []
    story.after(0.02)
    (line,) = story.said()
    assert "-chardev socket,id=c0,path=/run/a.sock,reconnect-ms=50 " in line
    assert "(QEMU before 9.2: reconnect=1)" in line
    assert "mode 0660" in line
    story.after(1000)
    assert story.said() == []
    assert story.narrative.deadline is None


def test_a_peer_that_says_nothing_is_a_warning_where_it_connected() -> None:
    story = Story()
    story.reach("connected")
    story.after(PATIENCE)
    assert story.warned() == [advice.NO_WORD]


def test_a_peer_that_says_nothing_where_we_connected_may_just_not_have_come_to_it() -> None:
    story = Story("client")
    story.reach("connected")
    story.after(PATIENCE)
    assert story.said() == [advice.NO_WORD]


def test_a_guest_that_boots_for_minutes_is_information_said_once() -> None:
    story = Story()
    story.reach("spoke")
    story.after(600)
    assert story.said() == [advice.NO_DRIVER]


def test_features_without_memory_are_memory_that_is_not_shared() -> None:
    story = Story()
    story.reach("features")
    story.after(60)
    (line,) = story.warned()
    assert "-object memory-backend-memfd,id=m0,size=1G,share=on -machine memory-backend=m0" in line
    assert "<access mode='shared'/>" in line


def test_features_without_memory_are_normal_while_the_driver_says_it_is_not_ready() -> None:
    story = Story()
    story.reach("features")
    story.view = View(0b1011, ())
    story.after(60)
    assert story.said() == [advice.NOT_STARTED]
    story.view = View(0b1111, ())
    story.after(60)
    assert story.warned() == [advice.MEMORY_NOT_SHARED]


def test_memory_that_was_refused_in_words_is_not_called_missing_as_well() -> None:
    story = Story()
    story.reach("features")
    story.narrative.refused("SET_MEM_TABLE refused: private memory", memory=True)
    story.after(60)
    assert story.warned() == ["SET_MEM_TABLE refused: private memory"]
    story.narrative.memory(1, 1 << 20)
    story.narrative.memory(0, 0)
    story.after(60)
    assert [line.text for line in story.narrative.take()][-1] == advice.MEMORY_NOT_SHARED


def test_another_refusal_does_not_explain_that_there_is_no_memory() -> None:
    story = Story()
    story.reach("features")
    story.narrative.refused("NET_SET_MTU refused: MTU 1")
    story.after(60)
    assert story.warned() == ["NET_SET_MTU refused: MTU 1", advice.MEMORY_NOT_SHARED]


def test_memory_refused_to_one_front_end_may_be_missing_with_the_next() -> None:
    story = Story()
    story.reach("features")
    story.narrative.refused("SET_MEM_TABLE refused: private memory", memory=True)
    story.narrative.disconnected("the front-end closed")
    story.reach("features")
    story.after(60)
    assert story.warned() == [advice.MEMORY_NOT_SHARED]


def test_memory_without_rings_is_a_guest_without_a_driver() -> None:
    story = Story()
    story.reach("memory")
    story.after(60)
    assert story.said() == [advice.NO_RINGS]


def test_rings_that_are_not_enabled_are_told_from_no_rings() -> None:
    story = Story()
    story.reach("memory")
    story.narrative.rings(rings(0, 1, enabled=False))
    story.view = View(None, (RingView(False, 1, False),))
    story.after(60)
    assert story.said() == [advice.NOT_ENABLED]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ((RingView(True, 0, False), RingView(True, 0, False)), advice.NO_BUFFERS),
        # A front-end may write the kick itself, once.
        ((RingView(True, 1, False), RingView(True, 1, False)), advice.NO_BUFFERS),
        ((RingView(True, 1, True), RingView(True, 0, False)), advice.NO_PACKET),
        # As QEMU does for a guest that goes on where it was, and has nothing to send.
        ((RingView(True, 2, True), RingView(True, 2, False)), advice.NO_PACKET),
    ],
)
def test_rings_without_a_packet_are_normal(views: tuple[RingView, ...], expected: str) -> None:
    story = Story()
    story.reach("rings")
    story.view = View(None, views)
    story.after(60)
    assert story.said() == [expected]


def test_rings_that_stand_since_nothing_tells_where_they_were_are_not_called_private_memory_as_well() -> None:
    story = Story()
    story.reach("memory")
    standing = rings(0, 1)
    standing[1].begins = LEFT_STANDING
    story.narrative.rings(standing)
    story.view = View(None, (RingView(True, 1, False), RingView(True, 2, False)))
    assert story.warned() == [advice.left_standing([1])]
    story.after(60)
    assert story.said() == ["rings 0 1 running, size 256"]


def test_kicks_into_rings_that_look_empty_are_private_memory() -> None:
    story = Story()
    story.reach("rings")
    story.view = View(None, (RingView(True, 1, False), RingView(True, 2, False)))
    story.after(60)
    (line,) = story.warned()
    assert "private mapping" in line
    assert "share=on" in line


def test_each_step_has_its_own_five_seconds() -> None:
    story = Story()
    story.narrative.waiting()
    for happen in (
        lambda: story.narrative.connected(7),
        story.narrative.spoke,
        lambda: story.narrative.features(["VERSION_1"]),
        lambda: story.narrative.memory(1, 1 << 20),
        lambda: story.narrative.rings(rings(0, 1)),
        story.narrative.first_packet,
    ):
        story.after(PATIENCE - 0.01)
        happen()
    assert len(story.said()) == 6


def test_trouble_and_refusals_are_warnings() -> None:
    story = Story()
    story.reach("rings")
    story.narrative.trouble("ring 1 is broken and stopped: a loop")
    story.narrative.refused("NET_SET_MTU refused: MTU 1")
    assert story.warned() == ["ring 1 is broken and stopped: a loop", "NET_SET_MTU refused: MTU 1"]


# Bounded


def test_a_flood_of_one_kind_of_line_is_cut_and_counted_and_drowns_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    logbook = Logbook("a", clock)
    with caplog.at_level(logging.INFO, "fastvhost"):
        for _ in range(10_000):
            logbook.write(Line(logging.WARNING, "turned away", "refused"))
        assert len(caplog.records) == BURST
        logbook.write(Line(logging.INFO, "connected", "steps"))
        assert caplog.messages[-1] == "port a: connected"
        clock.now += 3 / PER_SECOND
        for _ in range(10_000):
            logbook.write(Line(logging.WARNING, "turned away", "refused"))
    assert len(caplog.records) == BURST + 1 + 3
    assert caplog.messages[BURST + 1] == f"port a: turned away ({10_000 - BURST} such lines left out before)"
    assert caplog.messages[-1] == "port a: turned away"
