"""Keys that every kind of port takes: what is accepted, printed and refused."""

from __future__ import annotations

from typing import Any

import pytest

from fastvhost.control import config
from fastvhost.control.errors import UsageError
from fastvhost.control.port_text import from_table, parse

ONE, TWO = "52:54:00:00:00:01", "52:54:00:00:00:02"


def build(*ports: str, **options: Any) -> config.FwdConfig:
    return config.build({"port": list(ports), **options})


def refusal(*ports: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        build(*ports, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_port_without_keys_has_the_defaults_and_prints_none_of_them() -> None:
    policy = parse("a.sock").policy
    assert (policy.macs, policy.max_macs, policy.isolate, policy.storm, policy.mirror) == ((), 1024, "", 1000, "")
    assert (policy.rate, policy.pps, policy.burst) == (0, 0, 0)
    assert policy.keys == (("name", "a"),)


@pytest.mark.parametrize(
    "keys",
    [
        f"macs={ONE}+{TWO}",
        "max-macs=1048576",
        "isolate=tenant.1",
        "storm=off",
        "storm=2k+multicast",
        "mirror=m",
        "rate=1Gbit",
        "rate=1500Mbit,burst=64K",
        "pps=100k",
        "rate=8001bit,pps=1,burst=65",
    ],
)
def test_what_is_printed_reads_back_the_same(keys: str) -> None:
    spec = parse(f"a.sock,{keys}")
    assert spec.keys == parse("a.sock").keys
    assert spec.policy != parse("a.sock").policy
    assert str(spec).endswith(keys)
    assert parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("written", "bits"),
    [("1Gbit", 10**9), ("1G", 10**9), ("1.5Mbit", 1500000), ("100k", 100000), ("9000bit", 9000), ("1 Tbit", 10**12)],
)
def test_rates_have_units_of_powers_of_1000(written: str, bits: int) -> None:
    assert parse(f"a.sock,rate={written}").policy.rate == bits


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("rate=1000", "rate=1000: a rate without a unit; write bits a second, such as 1Gbit"),
        ("rate=fast", "not a rate"),
        ("rate=", "not a rate"),
        ("rate=-1Mbit", "not a rate"),
        ("rate=1GB", "not a rate"),
        ("rate=1bit", "use 8kbit to 1Tbit"),
        ("rate=2Tbit", "use 8kbit to 1Tbit"),
        ("rate=0k", "use 8kbit to 1Tbit"),
        ("pps=0", "use 1 to 1G"),
        ("pps=many", "not a number of frames a second"),
        ("pps=1.5k", "not a number of frames a second"),
        ("burst=64K", "burst=64K says how far a rate may be exceeded; give rate=, too"),
        ("rate=1Gbit,burst=1", "use 64 to 1G"),
        ("rate=1Gbit,burst=much", "not a size"),
        ("storm=", "not a number of frames a second"),
        ("storm=0", "use 1 to 1G"),
        ("storm=off+multicast", "off limits nothing"),
        ("storm=10+broadcast", "not a number of frames a second"),
        ("max-macs=0", "not a number from 1 to 1048576"),
        ("max-macs=²", "not a number from 1 to 1048576"),
        ("max-macs=1048577", "not a number from 1 to 1048576"),
        ("macs=", "macs= is no address; write six pairs of digits"),
        (f"macs={ONE}+", "macs= is no address"),
        ("macs=52:54:00:00:00", "is no address"),
        ("macs=01:00:5e:00:00:01", "address of a group"),
        ("macs=00:00:00:00:00:00", "nobody's address"),
        (f"macs={ONE}+{ONE}", f"{ONE} stands twice; give it once"),
        (f"macs={ONE}+{TWO},max-macs=1", "macs= has 2 addresses, max-macs=1 allows fewer; raise max-macs="),
        (f"macs={ONE},mac={TWO}", f"mac={TWO} is not among its macs=, so its frames would be dropped; add it there"),
        ("isolate=", "not a group's name"),
        ("isolate=a b", "not a group's name"),
        ("mirror=", "mirror= names no port; write mirror=NAME"),
        ("mirror=a", "mirror=a is the port itself; name another port"),
        ("mirror=x", "there is no port 'x'; the ports are a, b, c"),
        ("macs=", "write six pairs of digits"),
        ("rate=1Gbit,rate=2Gbit", "rate= stands twice; give it once"),
        ("max_macs=5", "no key 'max_macs'"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_with_the_reason(keys: str, said: str) -> None:
    assert said in refusal(f"a.sock,{keys}", "b.sock", "c.sock")


def test_a_mirror_has_no_mirror() -> None:
    assert "port 'b' has a mirror= itself" in refusal("a.sock,mirror=b", "b.sock,mirror=c", "c.sock")


def test_an_address_belongs_to_one_port() -> None:
    assert f"macs={ONE} is port 'a''s already" in refusal(f"a.sock,macs={ONE}", f"b.sock,macs={TWO}+{ONE}")
    assert "among the macs= of port 'a'" in refusal(f"a.sock,macs={ONE}", f"b.sock,mac={ONE}")
    build(f"a.sock,macs={ONE},mac={ONE}", f"b.sock,macs={TWO}")


@pytest.mark.parametrize("key", ["isolate=g", f"macs={ONE}", "max-macs=5", "storm=off", "mirror=b"])
def test_two_ports_with_a_policy_are_a_switch_and_wires_cannot_have_one(key: str) -> None:
    assert build(f"a.sock,{key}", "b.sock").forward == "learn"
    for options in ({"forward": "patch"}, {"wire": ["a:b"]}):
        said = refusal(f"a.sock,{key}", "b.sock", **options)
        assert f"{key} says what an Ethernet switch does" in said
        assert "use --forward learn, without --wire, or leave" in said


def test_a_wire_can_have_limits() -> None:
    settings = build("a.sock,rate=1Gbit,pps=1k", "b.sock")
    assert (settings.forward, settings.ports[0].policy.pps) == ("patch", 1000)


def test_a_file_has_lists_of_addresses() -> None:
    spec = from_table({"path": "a.sock", "macs": [ONE, TWO], "max-macs": 7, "rate": "1Gbit"})
    assert spec == parse(f"a.sock,macs={ONE}+{TWO},max-macs=7,rate=1Gbit")
    with pytest.raises(UsageError, match="a rate without a unit"):
        from_table({"path": "a.sock", "rate": 1000})
