"""vlan=, trunk= and native=: what they mean, and what makes no sense."""

from __future__ import annotations

import pytest

from fastvhost.control import config, vlans
from fastvhost.control.errors import UsageError
from fastvhost.control.vlans import Vlans


def build(*ports: str, **options: object) -> config.FwdConfig:
    return config.build({"port": list(ports), **options})


def vlans_of(keys: str) -> Vlans:
    return build(f"a.sock,{keys}", "b.sock", "c.sock").ports[0].policy.vlans


def test_an_access_port_has_one_vlan_without_tags() -> None:
    one = vlans_of("vlan=10")
    assert (one.untagged, one.tagged) == (10, None)


def test_a_trunk_has_vlans_with_tags_and_perhaps_one_without() -> None:
    one = vlans_of("trunk=20-22+10,native=21")
    assert (one.untagged, one.tagged) == (21, (10, 20, 21, 22))
    assert vlans_of("trunk=1-4094").tagged == tuple(range(1, 4095))
    assert vlans_of("trunk=1").untagged is None


def test_keys_are_printed_as_they_can_be_given_again() -> None:
    assert vlans_of("trunk=22+5+20+21+7-9+7,native=5").keys == (("trunk", "5+7-9+20-22"), ("native", "5"))
    assert str(build("a.sock,vlan=7", "b.sock", "c.sock").ports[0]).endswith("name=a,vlan=7")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("vlan=0", "vlan=0: no VLAN has this number; use 1 to 4094"),
        ("vlan=4095", "vlan=4095: no VLAN has this number"),
        ("vlan=", "vlan=: no VLAN has this number"),
        ("vlan=ten", "vlan=ten: no VLAN has this number"),
        ("vlan=1_0", "vlan=1_0: no VLAN has this number"),
        ("trunk=0-5", "trunk=0: no VLAN has this number"),
        ("trunk=5-4095", "trunk=4095: no VLAN has this number"),
        ("trunk=10+", "trunk=: no VLAN has this number"),
        ("trunk=9-5", "trunk=9-5: 9-5 is no range; write the lower number first, 5-9"),
        ("vlan=1,trunk=2", "trunk= a trunk; leave one out"),
        ("vlan=1,native=2", "native= a trunk; leave one out"),
        ("native=4", "native=4 is a trunk's VLAN without tags; add trunk=, or write vlan=4"),
        ("trunk=10+20,native=30", "native=30 is not in trunk=10+20; write trunk=30+10+20"),
        ("trunk=10,native=0", "native=0: no VLAN has this number"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^--port a\.sock,") as refused:
        vlans_of(keys)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"forward": "patch"}, {"wire": ["a:b"]}])
def test_along_wires_they_are_refused_and_the_remedy_is_learn(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"vlan=10 .* use --forward learn, without --wire, or leave vlan= out"):
        build("a.sock,vlan=10", "b.sock", **options)


def test_two_ports_are_a_switch_where_one_has_a_vlan() -> None:
    assert build("a.sock,vlan=10", "b.sock,vlan=10").forward == "learn"
    assert build("a.sock", "b.sock").forward == "patch"


def test_ports_without_keys_are_named_where_others_have_some() -> None:
    access, none = Vlans(10), Vlans()
    assert vlans.ports_without_keys([("a", access), ("b", none), ("c", none)]).endswith("VLAN 0: b, c")
    assert vlans.ports_without_keys([("a", none), ("b", none)]) == ""
    assert vlans.ports_without_keys([("a", access), ("b", Vlans(trunk=((1, 2),)))]) == ""
