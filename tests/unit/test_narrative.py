"""A port's log: a line per step, a cause for a missing one, and warnings only where something is wrong."""

from __future__ import annotations

import logging

import pytest

from fastvhost.backend import advice
from fastvhost.backend.logbook import BURST, PER_SECOND, Line, Logbook
from fastvhost.backend.narrative import MAX_WAIT, SETTLE, Narrative, RingView, View
from fastvhost.backend.rings import LEFT_STANDING, ConfiguredRing
from tests.unit.session_bench import Clock


class Recorder:
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
        """Advance the clock as the control thread does, waking at each deadline."""
        end = self.clock.now + seconds
        while (deadline := self.narrative.deadline) is not None and deadline <= end:
            self.clock.now = max(self.clock.now, deadline)
            self.narrative.tick(lambda: self.view)
        self.clock.now = end
        self.narrative.tick(lambda: self.view)

    def reach(self, step: str) -> None:
        """Do all steps up to this one, and discard their lines."""
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
    recorder = Recorder()
    narrative = recorder.narrative
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
    recorder.after(2 * SETTLE)
    narrative.first_packet()
    narrative.first_packet()
    assert narrative.state == "first packet"
    assert recorder.said() == [
        "listening on /run/a.sock",
        "connected to process 4711",
        "features MRG_RXBUF VERSION_1",
        "memory 2 regions, 3 GiB",
        "rings 0 1 running, size 256",
        "first packet from the guest",
    ]
    recorder.after(60)
    assert recorder.said() == []


def test_the_first_packet_is_never_logged_before_the_steps_that_led_to_it() -> None:
    recorder = Recorder()
    recorder.reach("features")
    recorder.narrative.memory(1, 1 << 20)
    recorder.narrative.rings(rings(0, 1))
    recorder.narrative.first_packet()
    assert recorder.said() == ["memory 1 region, 1 MiB", "rings 0 1 running, size 256", "first packet from the guest"]


def test_a_reboot_stops_the_rings_and_starts_them_and_repeats_no_other_step() -> None:
    recorder = Recorder()
    recorder.reach("rings")
    recorder.narrative.rings(rings())
    assert recorder.narrative.state == "memory"
    recorder.after(1)
    recorder.narrative.features(["VERSION_1"])
    recorder.narrative.memory(1, 1 << 20)
    recorder.narrative.rings(rings(0, 1))
    recorder.after(1)
    assert recorder.said() == ["rings stopped", "rings 0 1 running, size 256"]


def test_a_quick_restart_of_the_rings_is_not_logged() -> None:
    recorder = Recorder()
    recorder.reach("rings")
    recorder.narrative.rings(rings(1))
    recorder.narrative.rings(rings(0, 1))
    recorder.after(1)
    assert recorder.said() == []


def test_the_end_of_a_connection_is_said_and_the_next_one_begins_anew() -> None:
    recorder = Recorder()
    recorder.reach("features")
    recorder.narrative.disconnected("the front-end closed")
    recorder.narrative.connected(8)
    recorder.narrative.features(["VERSION_1"])
    assert recorder.said() == [
        "disconnected: the front-end closed; listening again",
        "connected to process 8",
        "features VERSION_1",
    ]


def test_in_client_mode_it_connects_instead_of_listening() -> None:
    recorder = Recorder("client")
    recorder.narrative.waiting()
    assert recorder.narrative.state == "connecting"
    recorder.narrative.cannot_connect("nobody listens there")
    recorder.after(MAX_WAIT)
    first, missing = recorder.said()
    assert first == "connecting to /run/a.sock"
    assert "nobody listens there" in missing
    assert "path=/run/a.sock,server=on" in missing


# A step that is missing


def test_nobody_connecting_is_said_once_with_the_line_that_connects() -> None:
    recorder = Recorder()
    recorder.reach("listening")
    recorder.after(MAX_WAIT - 0.01)
    assert recorder.said() == []
    recorder.after(0.02)
    (line,) = recorder.said()
    assert "-chardev socket,id=c0,path=/run/a.sock,reconnect-ms=50 " in line
    assert "(QEMU before 9.2: reconnect=1)" in line
    assert "mode 0660" in line
    recorder.after(1000)
    assert recorder.said() == []
    assert recorder.narrative.deadline is None


def test_a_peer_that_says_nothing_is_a_warning_where_it_connected() -> None:
    recorder = Recorder()
    recorder.reach("connected")
    recorder.after(MAX_WAIT)
    assert recorder.warned() == [advice.NO_WORD]


def test_a_peer_that_says_nothing_where_we_connected_may_just_not_have_come_to_it() -> None:
    recorder = Recorder("client")
    recorder.reach("connected")
    recorder.after(MAX_WAIT)
    assert recorder.said() == [advice.NO_WORD]


def test_a_guest_that_boots_for_minutes_is_one_line_of_information() -> None:
    recorder = Recorder()
    recorder.reach("spoke")
    recorder.after(600)
    assert recorder.said() == [advice.NO_DRIVER]


def test_features_without_memory_are_memory_that_is_not_shared() -> None:
    recorder = Recorder()
    recorder.reach("features")
    recorder.after(60)
    (line,) = recorder.warned()
    assert "-object memory-backend-memfd,id=m0,size=1G,share=on -machine memory-backend=m0" in line
    assert "<access mode='shared'/>" in line


def test_features_without_memory_are_normal_while_the_driver_says_it_is_not_ready() -> None:
    recorder = Recorder()
    recorder.reach("features")
    recorder.view = View(0b1011, ())
    recorder.after(60)
    assert recorder.said() == [advice.NOT_STARTED]
    recorder.view = View(0b1111, ())
    recorder.after(60)
    assert recorder.warned() == [advice.MEMORY_NOT_SHARED]


def test_memory_that_was_refused_in_words_is_not_called_missing_as_well() -> None:
    recorder = Recorder()
    recorder.reach("features")
    recorder.narrative.refused("SET_MEM_TABLE refused: private memory", memory=True)
    recorder.after(60)
    assert recorder.warned() == ["SET_MEM_TABLE refused: private memory"]
    recorder.narrative.memory(1, 1 << 20)
    recorder.narrative.memory(0, 0)
    recorder.after(60)
    assert [line.text for line in recorder.narrative.take()][-1] == advice.MEMORY_NOT_SHARED


def test_another_refusal_does_not_explain_that_there_is_no_memory() -> None:
    recorder = Recorder()
    recorder.reach("features")
    recorder.narrative.refused("NET_SET_MTU refused: MTU 1")
    recorder.after(60)
    assert recorder.warned() == ["NET_SET_MTU refused: MTU 1", advice.MEMORY_NOT_SHARED]


def test_memory_refused_to_one_front_end_may_be_missing_with_the_next() -> None:
    recorder = Recorder()
    recorder.reach("features")
    recorder.narrative.refused("SET_MEM_TABLE refused: private memory", memory=True)
    recorder.narrative.disconnected("the front-end closed")
    recorder.reach("features")
    recorder.after(60)
    assert recorder.warned() == [advice.MEMORY_NOT_SHARED]


def test_memory_without_rings_is_a_guest_without_a_driver() -> None:
    recorder = Recorder()
    recorder.reach("memory")
    recorder.after(60)
    assert recorder.said() == [advice.NO_RINGS]


def test_rings_that_are_not_enabled_are_told_from_no_rings() -> None:
    recorder = Recorder()
    recorder.reach("memory")
    recorder.narrative.rings(rings(0, 1, enabled=False))
    recorder.view = View(None, (RingView(False, 1, False),))
    recorder.after(60)
    assert recorder.said() == [advice.NOT_ENABLED]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ((RingView(True, 0, False), RingView(True, 0, False)), advice.NO_BUFFERS),
        # A front-end may write the kick itself, once.
        ((RingView(True, 1, False), RingView(True, 1, False)), advice.NO_BUFFERS),
        ((RingView(True, 1, True), RingView(True, 0, False)), advice.NO_PACKET),
        # As QEMU does for a guest that goes on after a restart and has nothing to send.
        ((RingView(True, 2, True), RingView(True, 2, False)), advice.NO_PACKET),
    ],
)
def test_rings_without_a_packet_are_normal(views: tuple[RingView, ...], expected: str) -> None:
    recorder = Recorder()
    recorder.reach("rings")
    recorder.view = View(None, views)
    recorder.after(60)
    assert recorder.said() == [expected]


def test_rings_that_stand_since_nothing_tells_where_they_were_are_not_called_private_memory_as_well() -> None:
    recorder = Recorder()
    recorder.reach("memory")
    standing = rings(0, 1)
    standing[1].begins = LEFT_STANDING
    recorder.narrative.rings(standing)
    recorder.view = View(None, (RingView(True, 1, False), RingView(True, 2, False)))
    assert recorder.warned() == [advice.left_standing([1])]
    recorder.after(60)
    assert recorder.said() == ["rings 0 1 running, size 256"]


def test_kicks_into_rings_that_look_empty_are_private_memory() -> None:
    recorder = Recorder()
    recorder.reach("rings")
    recorder.view = View(None, (RingView(True, 1, False), RingView(True, 2, False)))
    recorder.after(60)
    (line,) = recorder.warned()
    assert "private mapping" in line
    assert "share=on" in line


def test_each_step_has_its_own_five_seconds() -> None:
    recorder = Recorder()
    recorder.narrative.waiting()
    for happen in (
        lambda: recorder.narrative.connected(7),
        recorder.narrative.spoke,
        lambda: recorder.narrative.features(["VERSION_1"]),
        lambda: recorder.narrative.memory(1, 1 << 20),
        lambda: recorder.narrative.rings(rings(0, 1)),
        recorder.narrative.first_packet,
    ):
        recorder.after(MAX_WAIT - 0.01)
        happen()
    assert len(recorder.said()) == 6


def test_trouble_and_refusals_are_warnings() -> None:
    recorder = Recorder()
    recorder.reach("rings")
    recorder.narrative.trouble("ring 1 is broken and stopped: a loop")
    recorder.narrative.refused("NET_SET_MTU refused: MTU 1")
    assert recorder.warned() == ["ring 1 is broken and stopped: a loop", "NET_SET_MTU refused: MTU 1"]


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
