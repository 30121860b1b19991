"""Edits of the configuration of a running fwd: what fits, and what is refused with which remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastvhost.control import config, edits
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import UsageError

PORTS = ("a.sock", "b.sock", "c.sock")


def settings(*ports: str, wires: tuple[str, ...] = ("a:b",), **more: object) -> FwdConfig:
    return config.build({"port": list(ports or PORTS), "wire": list(wires), **more})


def test_a_port_that_is_added_has_no_wire() -> None:
    now = edits.add_port(settings(), "d.sock")
    assert [port.name for port in now.ports] == ["a", "b", "c", "d"]
    assert now.wires == (("a", "b"),)


def test_a_port_that_is_removed_takes_its_wire_along() -> None:
    now = edits.remove_port(settings(), "b")
    assert [port.name for port in now.ports] == ["a", "c"]
    assert now.wires == ()


def test_a_wire_is_taken_out_by_its_ends_in_any_order() -> None:
    assert edits.remove_wire(settings(), "b:a").wires == ()
    assert edits.add_wire(edits.remove_wire(settings(), "a:b"), "c:a").wires == (("c", "a"),)


def test_keys_of_a_port_that_goes_on_are_set_and_taken_away() -> None:
    now = settings("a.sock,rate=1Gbit,pps=5k", "b.sock", "c.sock,queues=2")
    then = edits.set_port(now, "a", "pps=,rate=2Gbit,burst=1M")
    assert dict(then.ports[0].policy.keys) == {"name": "a", "rate": "2Gbit", "burst": "1M"}
    assert then.ports[1:] == now.ports[1:]
    assert edits.differences(now, then) == ("port a set: rate=2Gbit, pps=, burst=1M",)
    assert edits.set_port(then, "a", "burst=,rate=1Gbit,pps=5k") == now


SET = "port set a "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("queues=2", f"{SET}queues=2: queues= stays as it is while the port is there; use port del and port add"),
        ("name=x", f"{SET}name=x: name= stays as it is while the port is there; use port del and port add"),
        ("foo=1", f"{SET}foo=1: there is no key 'foo'; port set takes vlan, trunk, .*, burst"),
        ("rate", f"{SET}rate: 'rate' is not KEY=VALUE; KEY= takes a key away"),
        ("rate=1Gbit,,", f"{SET}rate=1Gbit,,: '' is not KEY=VALUE; KEY= takes a key away"),
        ("pps=1,pps=2", f"{SET}pps=1,pps=2: pps= stands twice; give it once"),
        ("rate=7", f"{SET}rate=7: rate=7: a rate without a unit; .*"),
        ("burst=1M", f"{SET}burst=1M: burst=1M says how far a rate may be exceeded; give rate=, too"),
        ("vlan=10", "vlan=10 says what an Ethernet switch does, and --forward patch is none; .*"),
    ],
)
def test_keys_that_cannot_be_set_are_refused_with_thing_reason_and_remedy(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"{said}$"):
        edits.set_port(settings(), "a", text)


def test_keys_are_set_of_a_port_that_is_there() -> None:
    with pytest.raises(UsageError, match=r"port set z pps=1: there is no port 'z'; the ports are a, b, c$"):
        edits.set_port(settings(), "z", "pps=1")


@pytest.mark.parametrize(
    ("edit", "text", "said"),
    [
        (edits.add_port, "x/a.sock", "port add x/a.sock: there is a port 'a' already; give this one another name="),
        (edits.add_port, "a.sock,name=d", "ports 'a' and 'd' share this socket; give each its own"),
        (edits.add_port, "control.sock", "--control control.sock: port 'control' has this socket; give each its own"),
        (edits.add_port, "d.sock,foo=1", "a vhost-user port has no key 'foo'; it takes .*"),
        (edits.add_port, "nonsense", "no kind of port; write .*"),
        (edits.remove_port, "z", "port del z: there is no port 'z'; the ports are a, b, c"),
        (edits.add_wire, "a:c", "wire add a:c: port 'a' has the wire a:b already; first do wire del a:b"),
        (edits.add_wire, "c:z", "wire add c:z: there is no port 'z'; the ports are a, b, c"),
        (edits.add_wire, "c:c", "wire add c:c: a wire joins two ports; write wire add A:B"),
        (edits.add_wire, "c", "wire add c: a wire is named by its two ports; write A:B"),
        (edits.remove_wire, "a:c", "wire del a:c: these ports are not joined; the wires are a:b"),
        (edits.remove_wire, "a:z", "wire del a:z: there is no port 'z'; the ports are a, b, c"),
    ],
)
def test_what_cannot_be_is_refused_with_thing_reason_and_remedy(
    edit: Callable[[FwdConfig, str], FwdConfig], text: str, said: str
) -> None:
    with pytest.raises(UsageError, match=f"{said}$"):
        edit(settings(control="control.sock"), text)


def test_a_switch_has_no_wires_to_change() -> None:
    now = config.build({"port": list(PORTS), "forward": "learn"})
    for edit in (edits.add_wire, edits.remove_wire):
        with pytest.raises(UsageError, match=r"wire (add|del) a:b: --forward learn joins all ports, and has no wires"):
            edit(now, "a:b")


def test_the_last_port_stays() -> None:
    now = edits.remove_port(edits.remove_port(settings(), "a"), "b")
    with pytest.raises(UsageError, match="port del c: it is the last port; end fwd, or add another port first"):
        edits.remove_port(now, "c")


def test_guests_with_one_address_are_not_joined() -> None:
    mac = "mac=52:54:00:00:00:01"
    now = settings(f"a.sock,{mac}", "b.sock", f"c.sock,{mac}", wires=("a:b",))
    with pytest.raises(UsageError, match="'c' and 'a' are wired and have the same mac="):
        edits.add_wire(edits.remove_wire(now, "a:b"), "c:a")


def test_a_reload_changes_ports_and_wires_and_nothing_else() -> None:
    now = settings()
    file = settings("a.sock", "d.sock", wires=("d:a",))
    assert edits.reload(now, file) is file
    with pytest.raises(
        UsageError, match=r"reload: hold-timeout is 0\.2 in the file and 0\.1 here, which only a new start"
    ):
        edits.reload(now, settings(**{"hold-timeout": "200ms"}))


def test_differences_are_told_line_by_line() -> None:
    old = settings("a.sock", "b.sock", "c.sock", wires=("a:b",))
    new = settings("a.sock", "c.sock,queues=2", "d.sock", wires=("c:a",))
    assert edits.differences(old, new) == (
        "wire a:b removed",
        "port b removed",
        "port c made anew: vhost-user:c.sock,mode=server,queues=2,name=c",
        "port d added: vhost-user:d.sock,mode=server,queues=1,name=d",
        "wire c:a added",
    )
    assert edits.differences(old, settings("a.sock", "b.sock", "c.sock", wires=("b:a",))) == ()
