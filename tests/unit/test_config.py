"""What `fwd` accepts and refuses, from the command line and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.guests.short_dir import short_dir
from fastvhost.control import config
from fastvhost.control.errors import UsageError
from fastvhost.control.kinds import vhost_user
from fastvhost.control.policy import Policy
from fastvhost.control.port_spec import PortSpec
from fastvhost.control.port_text import parse
from fastvhost.control.units import core_list, duration, format_cores, format_duration


def build(*ports: str, **options: Any) -> config.FwdConfig:
    return config.build({"port": list(ports), **{key.replace("_", "-"): value for key, value in options.items()}})


def refusal(*ports: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        build(*ports, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def guest(name: str, path: str, mode: str = "server", queues: int = 1) -> PortSpec:
    """A vhost-user port."""
    return PortSpec(vhost_user.KIND, path, Policy(name), (("mode", mode), ("queues", str(queues))))


def test_a_bare_path_that_ends_in_sock_is_a_vhost_user_port_named_after_its_stem() -> None:
    assert parse("/run/vm/a.sock") == guest("a", "/run/vm/a.sock")


def test_a_bare_path_takes_keys_and_may_hold_a_colon() -> None:
    spec = parse("/run/0000:01/a.sock,mode=client,queues=4,name=left")
    assert spec == guest("left", "/run/0000:01/a.sock", "client", 4)


def test_a_path_with_a_kind_need_not_end_in_sock() -> None:
    assert parse("vhost-user:/run/vm/net0").name == "net0"


def test_a_specification_printed_reads_back_the_same() -> None:
    taps = ("tap:t0,queues=2,mtu=9000,name=up", "tap:t0", "pcap-file:in=a/b.pcap,timed=yes")
    for text in ("a.sock,queues=3", "vhost-user:x,mode=client,name=y", "null:,name=hole", *taps):
        assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "no kind of port"),
        ("tap:", "no interface"),
        ("tap:a/b", "not a name of an interface"),
        ("tap:sixteen-letters-x", "15 bytes at the most"),
        ("tap:t0,mtu=67", "not a number of bytes"),
        ("tap:t0,persist=1", "neither yes nor no"),
        ("tap:t0,owner=no-such-user", "no such user"),
        ("tap:t0,mode=server", "no key 'mode'"),
        ("cuse:", "no device's name"),
        ("cuse:a/b", "no device's name"),
        ("cuse:../x", "no device's name"),
        ("cuse:fv0,mode=server", "no key 'mode'"),
        ("pcap:", "no interface"),
        ("pcap:t0,queues=2", "no key 'queues'"),
        ("packet:", "no interface"),
        ("xdp:", "no interface"),
        ("xdp:t0,mode=native", "no key 'mode'"),
        ("xdp:t0,queues=0", "number of queue pairs"),
        ("pcap-file:", "no file"),
        ("pcap-file:in=x.pcap,loop=2", "neither yes nor no"),
        ("pcap-file:in=x.pcap,out=./x.pcap", "one file to play and to record"),
        ("pcap-file:x.pcap", "not key=value"),
        ("dpdk:x", "no kind 'dpdk'"),
        ("vhost-user:", "no path"),
        ("a.sock,mode", "not key=value"),
        ("a.sock,=client", "not key=value"),
        ("a.sock,mode=master", "no mode 'master'"),
        ("a.sock,queues=0", "number of queue pairs"),
        ("a.sock,queues=129", "number of queue pairs"),
        ("a.sock,queues=²", "number of queue pairs"),
        ("a.sock,que=2", "no key 'que'"),
        ("a.sock,name=x,name=y", "stands twice"),
        ("a.sock,name=", "cannot be a port's name"),
        ("a.sock,name=x:y", "cannot be a port's name"),
        ("vm one.sock", "cannot be a port's name"),
        ("null:x", "takes no value"),
        ("null:,queues=2", "no key 'queues'"),
        ("a\0b.sock", "no path"),
    ],
)
def test_a_port_that_makes_no_sense_is_refused_with_the_reason(text: str, said: str) -> None:
    assert said in refusal(text, "b.sock")


def test_a_socket_path_of_107_bytes_is_taken_and_one_of_108_is_refused_with_the_reason() -> None:
    longest = "/" + "x" * 101 + ".sock"
    assert len(longest) == 107
    assert parse(f"vhost-user:{longest},name=a").socket == longest
    assert "the path has 108 bytes" in refusal(f"/y{longest[1:]},name=a", "b.sock")


def test_the_length_of_a_path_counts_bytes_not_letters() -> None:
    assert "bytes" in refusal("/" + "ä" * 60 + ".sock,name=a", "b.sock")


def test_two_ports_are_one_wire_and_under_patch_four_are_two() -> None:
    assert build("a.sock", "b.sock").wires == (("a", "b"),)
    assert build("a.sock", "b.sock", "c.sock", "d.sock", forward="patch").wires == (("a", "b"), ("c", "d"))


def test_three_ports_are_a_switch_unless_wires_are_named() -> None:
    settings = build("a.sock", "b.sock", "c.sock")
    assert (settings.forward, settings.wires, settings.unwired) == ("learn", (), ())
    assert settings.directions == (("a", None), ("b", None), ("c", None))
    assert build("a.sock", "b.sock", "c.sock", wire=["a:b"]).forward == "patch"
    assert build("a.sock", "b.sock", forward="learn").forward == "learn"
    assert "leave --wire out" in refusal("a.sock", "b.sock", "c.sock", wire=["a:b"], forward="learn")


@pytest.mark.parametrize("text", ["", "0", "1023", "1.5k", "64K0", "2M", "many", "-1", True])
def test_a_table_of_no_such_size_is_refused(text: object) -> None:
    assert "--mac-table" in refusal("a.sock", "b.sock", "c.sock", mac_table=text)


def test_a_table_is_made_for_as_many_addresses_as_it_says() -> None:
    sizes = [
        build("a.sock", "b.sock", "c.sock", mac_table=text).mac_table for text in ("1k", "1024", "64k", "1M", 5000)
    ]
    assert sizes == [1024, 1024, 65536, 1 << 20, 5000]
    assert build("a.sock", "b.sock", "c.sock", mac_age="2m").mac_age == 120
    assert "--mac-age" in refusal("a.sock", "b.sock", "c.sock", mac_age="100ms")


def test_an_odd_port_out_is_an_error_unless_wires_are_named() -> None:
    assert "'c' is left over" in refusal("a.sock", "b.sock", "c.sock", forward="patch")
    settings = build("a.sock", "b.sock", "c.sock", wire=["c:a"])
    assert settings.wires == (("c", "a"),)
    assert settings.unwired == ("b",)


@pytest.mark.parametrize(
    ("wires", "said"),
    [
        (["a:x"], "no port 'x'"),
        (["a:a"], "a wire joins two ports"),
        (["a"], "a wire joins two ports"),
        (["a:b", "b:c"], "'b' is wired already by --wire a:b"),
    ],
)
def test_a_wire_that_makes_no_sense_is_refused(wires: list[str], said: str) -> None:
    assert said in refusal("a.sock", "b.sock", "c.sock", wire=wires)


def test_one_port_is_too_few() -> None:
    assert "two ports" in refusal("a.sock")


def test_two_ports_of_one_name_are_refused() -> None:
    assert "called 'a'" in refusal("x/a.sock", "y/a.sock")


def test_the_same_socket_twice_is_refused_however_it_is_spelt() -> None:
    with short_dir() as directory:
        (directory / "link").symlink_to(directory)
        first, again = f"{directory}/s.sock", f"{directory}/link/../{directory.name}/s.sock,name=other"
        assert "share this socket" in refusal(f"vhost-user:{first}", again)


def test_a_word_that_is_no_choice_is_refused() -> None:
    assert "use patch or learn" in refusal("a.sock", "b.sock", forward="bridge")
    assert "no such choice" in refusal("a.sock", "b.sock", on_full="block")


@pytest.mark.parametrize(
    ("text", "seconds"), [("50us", 50e-6), ("100ms", 0.1), ("2s", 2.0), ("1.5", 1.5), (".5s", 0.5), ("2m", 120.0)]
)
def test_durations_carry_units(text: str, seconds: float) -> None:
    assert duration("x", text, 0, 1000) == seconds  # and --check --json prints it as it was written


@pytest.mark.parametrize("text", ["", "fast", "1h", "-1s", "1 2", "1e3", True, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(UsageError, match="not a duration"):
        duration("x", text, 0, 1000)


def test_a_duration_out_of_range_is_refused_with_the_range() -> None:
    assert "use 1ms to 3600s" in refusal("a.sock", "b.sock", hold_timeout="1us")
    assert format_duration(0.00005) == "50us"


def test_cores_are_a_list_in_its_order() -> None:
    assert core_list("0,2-3") == (0, 2, 3)
    assert core_list(" 3 , 1 ") == (3, 1)
    assert core_list([0, "2-3"]) == (0, 2, 3)
    assert core_list(5) == (5,)
    assert format_cores((3, 0, 2)) == "0,2-3"


@pytest.mark.parametrize("text", ["", "0x3", "3-1", "1,,2", "a", "-1", "9999", "0-99999"])
def test_what_is_no_list_of_cores_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--cores"):
        core_list(text)


def test_a_file_says_what_the_command_line_can(tmp_path: Path) -> None:
    file = tmp_path / "fwd.toml"
    file.write_text(
        'port = ["a.sock", {path = "b.sock", mode = "client", queues = 2}, {kind = "null", name = "hole"}]\n'
        'wire = ["a:hole"]\ncores = [0, 1]\nhold-timeout = 0.25\nstats-period = 1\njson = true\n'
    )
    settings = config.build(config.read_file(str(file)))
    assert [port.name for port in settings.ports] == ["a", "b", "hole"]
    assert settings.ports[1] == guest("b", "b.sock", "client", 2)
    assert (settings.cores, settings.hold_timeout, settings.stats_period, settings.json) == ((0, 1), 0.25, 1.0, True)


def test_true_and_false_of_a_file_are_yes_and_no(tmp_path: Path) -> None:
    file = tmp_path / "fwd.toml"
    file.write_text(
        'port = ["a.sock", {kind = "tap", value = "t0", persist = true}, {kind = "pcap-file", in = "x", loop = false}]'
        '\nwire = ["a:t0"]\n'
    )
    _, tap, player = config.build(config.read_file(str(file))).ports
    assert (tap.option("persist"), player.option("loop")) == ("yes", "no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ports = []", "no option 'ports'"),
        ("port = 1", "a list is wanted"),
        ("port = [1, 2]", "neither a text"),
        ("port = [{kind = 'vhost-user', path = 'a.sock', colour = 'red'}]", "no key 'colour'"),
        ("port = ['a.sock', 'b.sock']\njson = 1", "true or false"),
        ("port = ['a.sock', 'b.sock']\ncontrol = 3", "a text is wanted"),
        ("port = [", "not TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "fwd.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        config.build(config.read_file(str(file)))


def test_a_file_that_is_not_there_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        config.read_file(str(tmp_path / "none.toml"))
