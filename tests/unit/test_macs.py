"""`fastvhost mac`: the forwarding table of a running fwd, through its control socket."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT
from fastvhost.cli import main as entry
from fastvhost.cli import render
from fastvhost.control import config, control_client, macs, stats
from fastvhost.control.control_socket import ControlSocket
from fastvhost.control.errors import FastvhostError, UsageError
from fastvhost.control.host import CorePlan
from fastvhost.control.mac_upkeep import SAY_SECONDS, SWEEP_SECONDS, MacUpkeep
from fastvhost.control.switch import Switch
from fastvhost.dataplane.forwarding_table import ForwardingTable
from tests.probes.mac_tables import destination, learn_one
from tests.unit.fake_parts import Fakes

Captured = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str, str]]
LEARN, PATCH = ("a.sock", "b.sock", "c.sock"), ("a.sock", "b.sock")


def switch_of(*ports: str) -> Switch:
    settings = config.build({"port": list(ports)})
    return Switch.of(settings, CorePlan((None,), frozenset({0}), frozenset({0})), Fakes().parts())


def table_of(switch: Switch) -> ForwardingTable:
    assert switch.wiring.bridge is not None
    table: ForwardingTable = switch.wiring.bridge.table
    return table


def address(n: int) -> str:
    return (b"\x52\x54" + n.to_bytes(4, "big")).hex(":")


def learn(switch: Switch, n: int, port: int, vlan: int = 0) -> str:
    return learn_one(table_of(switch), destination(b"\x52\x54" + n.to_bytes(4, "big") + bytes(6), vlan), port)


@pytest.fixture
def switch() -> Switch:
    """Of ports a, b and c, 0 to 2."""
    return switch_of(*LEARN)


@pytest.fixture
def run(directory: Path, capsys: Captured) -> Iterator[Callable[[Switch], Run]]:
    """For a switch whose control socket it serves: run `fastvhost mac` with these words, and get code and output."""
    servers: list[ControlSocket] = []

    def serve(switch: Switch) -> Run:
        path = directory / f"{len(servers)}.sock"
        server = ControlSocket(path, macs.reading(switch.wiring), changes=macs.changing(switch.wiring))
        servers.append(server)
        server.open()
        server.start()

        def run_verb(*words: str) -> tuple[int, str, str]:
            code = entry.main(["mac", *words, "--control", str(path)])
            return code, *capsys.readouterr()

        return run_verb

    yield serve
    for server in servers:
        server.stop()


Serve = Callable[[Switch], Run]


def test_what_was_learned_is_listed_by_port_names_and_filtered(switch: Switch, run: Serve) -> None:
    mac = run(switch)
    learn(switch, 1, 0)
    learn(switch, 2, 2, vlan=7)
    table_of(switch).set_tick(5)
    assert mac("add", address(3), "b")[0] == 0
    code, out, err = mac("show")
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split() == ["address", "vlan", "age", "port"]
    assert sorted(line.split() for line in lines) == [
        [address(1), "0", "5", "s", "a"], [address(2), "7", "5", "s", "c"], [address(3), "0", "static", "b"],
    ]  # fmt: skip
    rows = [json.loads(line) for line in mac("show", "--json", "--port", "c")[1].splitlines()]
    assert rows == [{"address": address(2), "vlan": 7, "port": "c", "age": 5, "static": False}]
    rows = [json.loads(line) for line in mac("show", "--json", "--vlan", "0")[1].splitlines()]
    assert sorted(row["address"] for row in rows) == [address(1), address(3)]
    assert [row["age"] for row in rows if row["static"]] == [None]


def test_a_table_of_many_pages_has_each_entry_once(
    switch: Switch, run: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(macs, "PAGE", 100)  # does not divide 512 buckets
    for n in range(600):
        learn(switch, n, n % 3)
    lines = run(switch)("show", "--json")[1].splitlines()
    assert sorted(json.loads(line)["address"] for line in lines) == [address(n) for n in range(600)]


def test_no_answer_has_more_rows_than_its_buckets_have_places(switch: Switch) -> None:
    for n in range(4000):
        learn(switch, n, 0)
    show = macs.reading(switch.wiring)["mac-show"]
    answer = show({"from": 0})
    assert len(answer["rows"]) <= 4 * macs.PAGE
    assert answer["next"] is None  # 512 buckets are one page
    for wrong in (-1, 512, 1 << 70, True, "0", None, [], 0.0):
        with pytest.raises(UsageError, match="begin with 0"):
            show({"from": wrong})


def test_a_static_entry_stays_where_it_was_put_until_it_is_removed(switch: Switch, run: Serve) -> None:
    mac = run(switch)
    learn(switch, 1, 0)
    assert mac("add", address(1).upper().replace(":", "-"), "b") == (
        0,
        f"{address(1)} in VLAN 0 is static at port b\n",
        "",
    )
    assert learn(switch, 1, 0) == "static"
    assert mac("flush")[1] == "0 learned addresses are forgotten\n"
    assert table_of(switch).find(address(1)) == 1
    assert mac("del", address(1)) == (0, f"{address(1)} in VLAN 0 is not static any more\n", "")
    assert learn(switch, 1, 0) == "learned"


def test_a_flush_forgets_a_port_or_a_vlan_or_both_or_all(switch: Switch, run: Serve) -> None:
    mac = run(switch)
    for n, (port, vlan) in enumerate([(0, 0), (0, 5), (1, 5), (2, 0), (2, 6)]):
        learn(switch, n, port, vlan)
    assert mac("flush", "--port", "a", "--vlan", "5")[1] == "1 learned address is forgotten\n"
    assert mac("flush", "--vlan", "5")[1] == "1 learned address is forgotten\n"
    assert mac("flush", "--port", "c")[1] == "2 learned addresses are forgotten\n"
    assert [row.address for row in table_of(switch).rows()] == [address(0)]
    assert mac("flush")[1] == "1 learned address is forgotten\n"


STATION = "52:54:00:00:00:01"
WRONG = [
    (("add", STATION), 2, "PORT is missing"),
    (("add",), 2, "MAC is missing"),
    (("del",), 2, "MAC is missing"),
    (("add", STATION, "a", "b"), 2, "'b' is one word too many"),
    (("show", "x"), 2, "'x' is one word too many"),
    (("lists",), 2, "see fastvhost mac --help"),
    (("add", "52:54:00:00:01", "a"), 2, "no Ethernet address; write it like"),
    (("add", "5254.0000.0001", "a"), 2, "no Ethernet address"),
    (("add", "01:00:5e:00:00:01", "a"), 2, "a group's address"),
    (("add", "ff:ff:ff:ff:ff:ff", "a"), 2, "a group's address"),
    (("del", "00:00:00:00:00:00"), 2, "nobody's address"),
    (("add", STATION, "a", "--vlan", "4095"), 2, "VLAN 4095: give 1 to 4094, or 0"),
    (("show", "--vlan", "-1"), 2, "VLAN -1: give 1 to 4094"),
    (("flush", "--vlan", "1e3"), 2, "VLAN 1e3"),
    (("flush", "--json"), 2, "does not take --json"),
    (("add", STATION, "a", "--port", "b"), 2, "does not take --port"),
    (("add", STATION, "z"), 1, "there is no port 'z'; the ports are a, b, c"),
    (("show", "--port", "z"), 1, "there is no port 'z'"),
    (("flush", "--port", "0"), 1, "there is no port '0'"),
    (("del", STATION), 1, "has no static entry"),
    (("add", "52:54:00:00:00:77", "a"), 1, "is static at port 'c'; fastvhost mac del 52:54:00:00:00:77 --vlan 0"),
    (("add", "52:54:00:00:00:88", "a"), 1, "is reserved for port 'c'; take it off"),
]


@pytest.mark.parametrize(
    ("words", "code", "said"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_what_cannot_be_done_is_one_line_and_the_table_is_as_it_was(
    switch: Switch, run: Serve, words: tuple[str, ...], code: int, said: str
) -> None:
    learn(switch, 5, 0)
    table_of(switch).add("52:54:00:00:00:77", 2)
    table_of(switch).reserve("52:54:00:00:00:88", 2)
    before = table_of(switch).rows(), table_of(switch).reservations(), table_of(switch).generation
    ended, out, err = run(switch)(*words)
    assert (ended, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("fastvhost: ")
    assert said in err
    assert (table_of(switch).rows(), table_of(switch).reservations(), table_of(switch).generation) == before


@pytest.mark.parametrize(("command", "given"), [
    ("mac-add", {"address": 5, "port": "a"}), ("mac-add", {"address": STATION}), ("mac-del", {"address": None}),
    ("mac-add", {"address": STATION, "port": ["a"]}), ("mac-flush", {"vlan": True}), ("mac-flush", {"vlan": [1]}),
    ("mac-flush", {"port": {}}),
])  # fmt: skip
def test_requests_by_hand_are_judged_as_those_of_the_verb(
    switch: Switch, command: str, given: dict[str, object]
) -> None:
    learn(switch, 5, 0)
    with pytest.raises(FastvhostError, match="mac: "):
        macs.changing(switch.wiring)[command](given)
    assert len(table_of(switch).rows()) == 1


def test_a_fwd_that_forwards_along_wires_says_so(run: Serve) -> None:
    mac = run(switch_of(*PATCH))
    for words in (("show",), ("add", STATION, "a"), ("del", STATION), ("flush",)):
        code, _, err = mac(*words)
        assert code == 1
        assert err.startswith("fastvhost: mac: this fwd forwards along wires and learns no addresses; start it with")


@pytest.mark.parametrize(("port", "vlan", "said"), [
    ("a", "0", "port 'a' (vlan=10) is no member of VLAN 0"), ("a", "11", "port 'a' (vlan=10) is no member of VLAN 11"),
    ("b", "12", "port 'b' (trunk=10-11+20,native=10) is no member"), ("a", "10", ""), ("b", "10", ""), ("b", "20", ""),
    ("c", "0", ""), ("c", "4094", ""),
])  # fmt: skip
def test_an_address_is_put_only_where_frames_of_its_vlan_can_go(run: Serve, port: str, vlan: str, said: str) -> None:
    switch = switch_of("a.sock,vlan=10", "b.sock,trunk=10-11+20,native=10", "c.sock")
    code, _, err = run(switch)("add", STATION, port, "--vlan", vlan)
    assert (code, len(table_of(switch).rows())) == ((1, 0) if said else (0, 1))
    assert said in err


def test_a_switch_without_vlans_has_all_addresses_in_vlan_0(switch: Switch, run: Serve) -> None:
    code, _, err = run(switch)("add", STATION, "a", "--vlan", "5")
    assert code == 1
    assert "all addresses are in VLAN 0; leave --vlan out" in err


def test_an_answer_that_is_not_a_fwds_is_one_line(
    switch: Switch, run: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac = run(switch)
    for answer in (None, [], {"rows": 5, "next": None}, {"rows": [{}], "next": None}, {"rows": [], "next": 0}):
        monkeypatch.setattr(control_client, "ask", lambda *_, answer=answer, **__: answer)
        code, _, err = mac("show")
        assert (code, err.count("\n")) == (1, 1)
        assert control_client.NOT_OURS in err


# Counts


def test_stats_and_show_tell_what_was_learned_from_a_port_and_what_was_not(switch: Switch) -> None:
    learn(switch, 1, 0)
    learn(switch, 2, 0)
    learn(switch, 1, 1)
    table_of(switch).add(address(3), 2)
    learn(switch, 3, 0)
    snapshot = json.loads(json.dumps(stats.snapshot(switch.wiring)))
    from_a = snapshot["ports"]["a"]["learning"]
    assert {key: from_a[key] for key in ("addresses", "learned", "moved", "evicted")} == {
        "addresses": 1, "learned": 2, "moved": 0, "evicted": 0,
    }  # fmt: skip
    assert {reason: n for reason, n in from_a["refused"].items() if n} == {"static": 1}
    assert set(from_a["refused"]) == {
        "busy", "no_source", "at_limit", "too_fast", "table_full", "static", "reserved", "flapping", "frozen",
    }  # fmt: skip
    assert snapshot["ports"]["b"]["learning"]["moved"] == 1
    assert switch.describe("a")[0]["learning"] == from_a
    text = render.stats(snapshot)
    assert "learned from a: addresses 1, learned 2, moved 0, evicted 0; not learned: static 1" in text
    assert "learned from b: addresses 1, learned 0, moved 1, evicted 0\n" in text


def test_a_fwd_along_wires_learns_nothing() -> None:
    switch = switch_of(*PATCH)
    snapshot = stats.snapshot(switch.wiring)
    assert snapshot["ports"]["a"]["learning"] is None
    assert "learned" not in render.stats(snapshot)
    assert "learning" not in switch.describe("a")[0]


# Second by second


def test_an_entry_that_is_too_old_is_gone_within_a_whole_sweep() -> None:
    table = ForwardingTable(addresses=1024, ports=3, max_age=10)
    upkeep = MacUpkeep(table, str)
    upkeep.look(100.2)
    for n in range(500):
        learn_one(table, destination(b"\x52\x54" + n.to_bytes(4, "big") + bytes(6), 0), 0)
    assert table.counters(0)["entries"] > 450
    before = table.generation
    upkeep.look(100.9)
    assert table.generation == before  # the second is the same
    for second in range(101, 110):
        upkeep.look(second + 0.5)
    assert len(table.rows()) == table.counters(0)["entries"]
    for second in range(110, 110 + SWEEP_SECONDS):
        assert table.counters(0)["entries"] > 0
        upkeep.look(second + 0.5)
        assert table.rows() == []
    assert table.counters(0)["entries"] == 0


def test_the_switch_has_its_table_looked_after() -> None:
    switch = switch_of(*LEARN)
    learn(switch, 1, 0)
    switch.tick(50.0)
    assert [row.age for row in table_of(switch).rows()] == [50]
    switch_of(*PATCH).tick(50.0)


def test_what_is_learned_before_the_first_tick_is_not_too_old_at_that_tick(switch: Switch) -> None:
    switch.start()
    try:
        learn(switch, 1, 0)
        switch.tick(time.monotonic())
        (row,) = table_of(switch).rows()
        assert row.age <= MAX_WAIT
    finally:
        switch.stop()


def flap(switch: Switch, n: int) -> None:
    """Until it was seen to move too often."""
    times = table_of(switch).flapped
    for turn in range(20):
        if table_of(switch).flapped == times:
            learn(switch, n, turn % 2)


def test_flapping_is_logged_at_once_and_then_once_in_a_while(
    switch: Switch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fastvhost")
    switch.tick(0.0)
    assert caplog.messages == []
    flap(switch, 1)
    switch.tick(1.0)
    (first,) = caplog.messages
    assert address(1) in first
    assert "in VLAN 0 comes from port b and port a in turns; it stays at b for a second." in first
    assert "give each guest an address of its own" in first
    for n in (2, 3, 4):
        flap(switch, n)
        switch.tick(1.0 + n)
    assert len(caplog.messages) == 1
    switch.tick(1.0 + SAY_SECONDS)
    assert len(caplog.messages) == 2
    assert address(4) in caplog.messages[1]
    assert "(3 such pauses since the last of these lines)" in caplog.messages[1]
    switch.tick(3 * SAY_SECONDS)
    assert len(caplog.messages) == 2
