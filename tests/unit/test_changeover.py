"""A running switch is brought to another configuration: in which order, and what is put back where that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import config, edits
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.switch import Switch
from fastvhost.dataplane.door import WorkerStuckError
from tests.unit.fake_parts import Fakes
from tests.unit.test_switch_of_parts import plan

Edit = Callable[[FwdConfig], FwdConfig]


@contextmanager
def running(
    fakes: Fakes, *ports: str, wires: tuple[str, ...] = (), cores: int = 1, **more: str
) -> Iterator[Switch]:
    given = {"port": list(ports), "wire": list(wires), **more}
    switch = Switch.of(config.build(given), plan(*[None] * cores), fakes.parts())
    switch.start()
    wait_until("workers run", MAX_WAIT, lambda: sum(line.startswith("run") for line in fakes.log) == cores)
    fakes.log.clear()
    try:
        yield switch
    finally:
        assert switch.halt(MAX_WAIT)


def to(*ports: str, wires: tuple[str, ...] = (), **more: str) -> Edit:
    return lambda _now: config.build({"port": list(ports), "wire": list(wires), **more})


def state(switch: Switch) -> tuple[FwdConfig, list[tuple[int, str]], list[tuple[str, str | None]]]:
    units = [(unit.number, unit.spec.name) for unit in switch.wiring.ports]
    return switch.wiring.config, units, [wire for thread in switch.wiring.workers for wire in thread.wires]


def test_a_wire_that_changes_is_led_elsewhere_at_both_of_its_ends() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock", "c.sock", wires=("a:b",)) as switch:
        assert switch.change(lambda now: edits.remove_wire(now, "a:b")) == ("wire a:b removed",)
        assert fakes.log == ["lead a:None", "lead b:None"]
        switch.change(lambda now: edits.add_wire(now, "a:c"))
        assert fakes.log[2:] == ["lead a:c", "lead c:a"]
        assert sorted(switch.wiring.workers[0].wires, key=str) == [("a", "c"), ("b", None), ("c", "a")]
        assert switch.describe("a")[0]["wired_to"] == "c"


def test_a_new_port_is_opened_and_served_before_workers_get_it_and_an_old_one_ends_after_they_lost_it(
    directory: Path,
) -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        switch.change(lambda now: edits.add_port(now, str(directory / "c.sock")))
        assert fakes.log == ["open c", "start c", "join c:None worker0"]
        fakes.log.clear()
        switch.change(lambda now: edits.remove_port(now, "a"))
        assert fakes.log == ["leave a", "lead b:None", "withdraw a", "stop a", "dismiss a", "close a"]
        assert [(unit.number, unit.spec.name) for unit in switch.wiring.ports] == [(1, "b"), (2, "c")]
        switch.change(lambda now: edits.add_port(now, "null:"))
        assert [(unit.number, unit.spec.name) for unit in switch.wiring.ports] == [(0, "null"), (1, "b"), (2, "c")]


def test_a_port_of_a_switch_has_its_number_and_policies_before_workers_get_it_and_loses_them_after() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock", "c.sock") as switch:
        switch.change(to("a.sock", "b.sock", "c.sock", "d.sock,isolate=x", wires=()))
        joined = fakes.log.index("seat 3:d")
        assert fakes.log[:2] == ["open d", "start d"]
        assert fakes.log[2].startswith("join d:")
        assert joined == 3
        assert ("d", "isolate", "x") in switch.wiring.bridge.policies
        fakes.log.clear()
        switch.change(lambda now: edits.remove_port(now, "a"))
        assert fakes.log == ["leave a", "seat 0:None", "withdraw a", "stop a", "dismiss a", "close a"]
        assert [(unit.number, unit.spec.name) for unit in switch.wiring.ports] == [(1, "b"), (2, "c"), (3, "d")]
        assert switch.wiring.bridge.ports[0] is None


def test_a_port_that_a_switch_cannot_take_leaves_nothing_behind() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock", "c.sock") as switch:
        before = state(switch)
        with pytest.raises(UsageError, match="port d: no place"):
            switch.change(to("a.sock", "b.sock", "c.sock", "d.sock,macs=00:00:00:00:00:01", wires=()))
        assert state(switch) == before
        assert switch.wiring.bridge.ports[3] is None
        assert switch.wiring.bridge.policies[-1] == ("d", "forget")
        assert fakes.log[-4:] == ["withdraw d", "stop d", "dismiss d", "close d"]


def test_a_mirror_that_is_made_anew_gets_its_copies_again() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock,mirror=c", "b.sock", "c.sock") as switch:
        switch.change(to("a.sock,mirror=c", "b.sock", "c.sock,queues=2", wires=()))
        assert switch.wiring.bridge.policies[-1] == ("a", "mirror", "c")
        with pytest.raises(UsageError, match="port del c: it is the mirror of port 'a'; first remove that one"):
            switch.change(lambda now: edits.remove_port(now, "c"))


def test_a_new_port_goes_to_the_worker_with_fewest_wires() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "null:", cores=2) as switch:
        switch.change(to("a.sock", "null:", "b.sock", wires=("a:null",)))
        assert "join b:None worker1" in fakes.log


def test_a_port_whose_keys_changed_at_the_same_socket_is_closed_before_its_successor_is_opened() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        switch.change(to("a.sock,queues=2", "b.sock", wires=("a:b",)))
        assert fakes.log == [
            "leave a", "lead b:None", "withdraw a", "stop a", "dismiss a", "close a",
            "open a", "start a", "join a:b worker0", "lead b:a",
        ]  # fmt: skip


def test_a_port_whose_successor_cannot_be_opened_is_put_back_with_its_wire() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        before = state(switch)
        fakes.refuses["c"] = "c.sock: somebody listens there"
        with pytest.raises(RuntimeFailure, match=r"c\.sock: somebody listens there"):
            switch.change(to("a.sock,queues=2", "b.sock", "c.sock", wires=("a:c",)))
        assert state(switch) == before
        assert fakes.log[-4:] == ["open a", "start a", "join a:b worker0", "lead b:a"]


def test_where_one_port_cannot_be_opened_none_is() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        before = state(switch)
        fakes.refuses["d"] = "d.sock: somebody listens there"
        with pytest.raises(RuntimeFailure, match="somebody listens there"):
            switch.change(to("a.sock", "c.sock", "d.sock", wires=("a:c",)))
        assert state(switch) == before
        assert fakes.log == ["open c", "start c", *(f"{verb} {name}" for name in "cd"
                             for verb in ("withdraw", "stop", "dismiss", "close"))]  # fmt: skip


def test_where_a_worker_does_not_come_nothing_changes() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        before = state(switch)
        fakes.rewirings[0].refuses = WorkerStuckError("worker0 does not come to the door")
        with pytest.raises(RuntimeFailure, match="worker0 does not come to the door; nothing was changed, try again"):
            switch.change(to("a.sock", "c.sock", wires=("a:c",)))
        assert state(switch) == before
        assert fakes.log[-4:] == ["withdraw c", "stop c", "dismiss c", "close c"]


def test_what_was_checked_and_refused_changes_nothing(directory: Path) -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        before = state(switch)
        with pytest.raises(UsageError, match="there is no port 'z'"):
            switch.change(lambda now: edits.remove_port(now, "z"))
        with pytest.raises(UsageError, match="mkdir -p"):
            switch.change(lambda now: edits.add_port(now, f"{directory}/none/c.sock"))
        assert state(switch) == before
        assert fakes.log == []


def test_a_port_whose_thread_does_not_end_is_tried_again_at_the_next_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvhost.control.wiring.END_SECONDS", 0.01)
    fakes = Fakes(moods={"a": "late"})
    with running(fakes, "a.sock", "b.sock", "c.sock", wires=("a:b",)) as switch:
        switch.change(lambda now: edits.remove_port(now, "a"))
        assert "close a" not in fakes.log
        fakes.services["a"].mood = "well"
        switch.change(lambda now: edits.add_wire(now, "b:c"))
        assert fakes.log[-2:] == ["lead b:c", "lead c:b"]
        assert fakes.log.count("close a") == 1


def test_what_a_worker_kept_waiting_at_a_port_that_goes_is_done_once_no_worker_knows_the_port() -> None:
    """A busy host: the worker does not come within the 20 ms in which the port's own thread waits for it."""
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock", "c.sock", wires=("a:b",)) as switch:
        switch.wiring.ports[2].service.unsettled = True
        switch.change(lambda now: edits.remove_port(now, "c"))
        assert fakes.log[-5:] == ["withdraw c", "stop c", "dismiss c", "stop c", "close c"]


def test_nothing_changes_once_it_stops() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        assert switch.halt(MAX_WAIT)
        with pytest.raises(RuntimeFailure, match="fwd is stopping; nothing was changed"):
            switch.change(lambda now: edits.remove_wire(now, "a:b"))


def test_a_stop_does_not_wait_long_for_a_change_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvhost.control.wiring.CHANGE_SECONDS", 0.01)
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock") as switch:
        entered, leave = threading.Event(), threading.Event()

        def slow(now: FwdConfig) -> FwdConfig:
            entered.set()
            leave.wait(MAX_WAIT)
            return now

        thread = threading.Thread(target=switch.change, args=(slow,))
        thread.start()
        assert entered.wait(MAX_WAIT)
        assert switch.halt(MAX_WAIT)
        leave.set()
        thread.join(MAX_WAIT)


# Policies of ports that stay


def last_policy(switch: Switch, port: str, which: str) -> tuple[object, ...]:
    return [entry for entry in switch.wiring.bridge.policies if entry[:2] == (port, which)][-1]  # type: ignore[union-attr]



MAC, OTHER, REFUSED = "52:54:00:00:00:01", "52:54:00:00:00:02", "00:00:00:00:00:01"


def test_a_port_whose_policy_differs_goes_on() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock", wires=("a:b",)) as switch:
        unit, wire = switch.wiring.ports[0], fakes.workers[0].wires[0]
        assert switch.change(lambda now: edits.set_port(now, "a", "rate=1Gbit")) == ("port a set: rate=1Gbit",)
        assert fakes.log == []
        assert wire.limit == {"bits": 10**9, "frames": 0, "burst": 0}
        assert switch.wiring.ports[0] is unit
        assert switch.describe("a")[0]["rate"] == "1Gbit"
        switch.change(lambda now: edits.set_port(now, "a", "rate="))
        assert wire.limit["bits"] == 0


def test_other_vlans_of_several_ports_are_one_change() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock", "c.sock", forward="learn") as switch:
        switch.change(to("a.sock,vlan=10", "b.sock,trunk=10-12,native=10", "c.sock", forward="learn"))
        assert fakes.log == ["vlans 0: 10 None", "vlans 1: 10 3"]
        switch.change(lambda now: edits.set_port(now, "a", "vlan="))
        assert fakes.log[2:] == ["vlans 0: 0 4094"]


def test_an_address_and_a_mirror_move_from_one_port_to_another_at_once() -> None:
    fakes = Fakes()
    before = (f"a.sock,macs={MAC},mirror=c", f"b.sock,macs={OTHER}", "c.sock")
    with running(fakes, *before, forward="learn") as switch:
        bridge = switch.wiring.bridge
        assert bridge is not None
        bridge.policies.clear()
        switch.change(to(f"a.sock,macs={OTHER}", f"b.sock,macs={MAC}", "c.sock,mirror=a", forward="learn"))
        done = bridge.policies
        for taken, given in (
            (("a", "let go", MAC), ("b", "guard", MAC)),
            (("b", "let go", OTHER), ("a", "guard", OTHER)),
            (("a", "mirror", None), ("c", "mirror", "a")),
        ):
            assert done.index(taken) < done.index(given)


def test_a_mirror_that_is_made_anew_brings_no_policy_back_that_has_ended(directory: Path) -> None:
    fakes = Fakes()
    a, b, c, d = (str(directory / f"{name}.sock") for name in "abcd")
    with running(fakes, f"{a},macs={MAC},mirror=c", b, c, forward="learn") as switch:
        change = to(f"{a},mirror=c", b, f"{c},queues=2", f"{d},macs={MAC}", forward="learn")
        switch.wiring.bridge.policies.clear()  # type: ignore[union-attr]
        switch.change(change)
        done = switch.wiring.bridge.policies  # type: ignore[union-attr]
        assert ("a", "guard", MAC) not in done
        assert ("d", "guard", MAC) in done
        assert last_policy(switch, "a", "mirror") == ("a", "mirror", "c")
        # And not as a mirror that a port has no more, where it comes anew as one with a mirror itself.
        switch.change(to(a, b, f"{c},mirror=b", f"{d},macs={MAC}", forward="learn"))
        assert last_policy(switch, "a", "mirror") == ("a", "mirror", None)


@pytest.mark.parametrize("ports", [("b.sock",), ("d.sock", "b.sock,queues=2")])
def test_a_policy_that_is_refused_leaves_all_as_it_was(ports: tuple[str, ...], directory: Path) -> None:
    fakes = Fakes()
    before = [str(directory / name) for name in (f"a.sock,macs={MAC}", "b.sock", "c.sock")]
    after = [str(directory / name) for name in (f"a.sock,macs={REFUSED},vlan=5", *ports)]
    with running(fakes, *before, forward="learn") as switch:
        config_before, units, _ = state(switch)
        with pytest.raises(UsageError, match="port a: no place"):
            switch.change(to(*after, forward="learn"))
        assert not [line for line in fakes.log if line.startswith("vlans")]
        assert switch.wiring.config == config_before
        assert sorted(state(switch)[1]) == sorted(units)
        assert last_policy(switch, "a", "guard") == ("a", "guard", MAC)
        assert switch.describe("a")[0]["macs"] == MAC


def test_vlans_that_a_worker_keeps_waiting_leave_all_as_it_was() -> None:
    fakes = Fakes()
    with running(fakes, "a.sock", "b.sock", "c.sock", forward="learn") as switch:
        before = state(switch)
        fakes.rewirings[0].refuses = WorkerStuckError("worker0 does not come to the door")
        with pytest.raises(RuntimeFailure, match="worker0 does not come to the door; nothing was changed, try again"):
            switch.change(lambda now: edits.set_port(now, "a", "vlan=10,isolate=x"))
        assert state(switch) == before
        assert last_policy(switch, "a", "isolate") == ("a", "isolate", "")
