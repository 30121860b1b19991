"""Network namespaces of netns=: what names one, which one it means, and that no thread of fwd stays in it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastvhost.control import port_text
from fastvhost.control.errors import UsageError
from fastvhost.hostside import interfaces, namespaces
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.namespaces import Namespace, Wanted, identity_of, own_identity


@pytest.fixture
def apart() -> Iterator[subprocess.Popen[str]]:
    """A process in a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a b", "a\nb", "/x\0"])
@pytest.mark.parametrize("kind", ["tap:t0", "packet:v0", "xdp:v0"])
def test_what_can_be_no_namespace_is_refused_with_what_can(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match="netns="):
        port_text.parse(f"{kind},netns={text}")


@pytest.mark.parametrize("text", ["blue", "4711", "/run/docker/netns/1a2b", "cni-0:1"])
def test_a_specification_tells_the_namespace_as_it_was_written(text: str) -> None:
    spec = port_text.parse(f"tap:t0,netns={text},mtu=1400")
    assert spec.option("netns") == text
    assert port_text.parse(str(spec)) == spec


@pytest.mark.parametrize("kind", ["pcap:v0", "null:", "a.sock"])
def test_a_kind_of_port_that_has_no_namespace_says_so(kind: str) -> None:
    with pytest.raises(UsageError, match="has no key 'netns'"):
        port_text.parse(f"{kind},netns=blue")


def test_what_is_opened_there_is_of_that_namespace_and_no_thread_stays_there(apart: subprocess.Popen[str]) -> None:
    before = own_identity()
    wanted = Wanted(str(apart.pid))
    there = wanted.open()
    assert there is not None
    assert wanted.identity() == there.identity == identity_of(f"/proc/{apart.pid}/ns/net") != before
    assert there.run(own_identity) == there.identity
    watch = there.run(interfaces.Watch)
    there.close()
    interface, other = watch.look("lo"), interfaces.look("lo")
    assert interface is not None
    assert other is not None
    assert (interface.up, other.up) == (False, True)
    watch.close()
    assert own_identity() == before
    deadline = time.monotonic() + 30
    while identities(before) != {before}:  # the thread that went there ends
        assert time.monotonic() < deadline
        time.sleep(0.01)


def identities(least: namespaces.Identity) -> set[namespaces.Identity]:
    """The namespaces of all threads of this process. One that ends meanwhile has none."""
    found = {least}
    for task in Path("/proc/self/task").iterdir():
        try:
            found.add(identity_of(str(task / "ns/net")))
        except OSError:
            continue
    return found


def test_an_error_there_is_the_callers_and_harms_no_namespace(apart: subprocess.Popen[str]) -> None:
    before = own_identity()
    there = Wanted(str(apart.pid)).open()
    assert there is not None
    with pytest.raises(ZeroDivisionError):
        there.run(lambda: 1 // 0)
    there.close()
    assert own_identity() == before
    with pytest.raises(HostPortError, match="cannot be entered: Bad file descriptor"):
        there.run(own_identity)


def test_a_file_without_a_mounted_namespace_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "made").touch()
    for path in (tmp_path / "made", Path("/proc/self/ns/mnt"), tmp_path / "none", tmp_path / "made" / "x"):
        assert Wanted(str(path)).open() is None
    wanted = Wanted(str(tmp_path / "none"))
    assert wanted.identity() is None
    assert not wanted.ended
    assert wanted.missing == f"there is no network namespace {tmp_path}/none; waiting for it"


def test_a_process_that_ended_is_not_waited_for_nor_another_one_of_its_number(
    apart: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(str(apart.pid))
    assert not wanted.ended
    with monkeypatch.context() as patch:
        patch.setattr(namespaces, "_started", lambda _: 17)  # one with its number that came later
        assert wanted.ended
        assert wanted.identity() is None
        assert wanted.open() is None
    apart.kill()
    apart.wait()
    assert wanted.ended
    assert "that process is gone" in wanted.missing
    assert "there is no such process" in Wanted(str(apart.pid)).missing


def link_message(kind: int, index: int, family: int = 0, attributes: bytes = b"") -> bytes:
    """As the kernel tells of interfaces. rtnetlink(7)."""
    body = interfaces.IFINFO.pack(family, 1, index, 0, 0) + attributes
    return interfaces.NLMSG.pack(16 + len(body), kind, 0, 0, 0) + body


MOVED = struct.pack("=HHi", 8, interfaces.IFLA_NEW_NETNSID, 3)
NAMED = struct.pack("=HH4s", 7, 3, b"v0\0")  # IFLA_IFNAME, padded
NEW, GONE = 16, interfaces.RTM_DELLINK


def test_the_kernel_tells_what_was_moved_from_what_was_removed_or_only_left_a_bridge() -> None:
    watch = interfaces.Watch()
    watch._note(link_message(GONE, 7, attributes=NAMED + MOVED) + link_message(GONE, 8, attributes=NAMED))
    assert (watch.was_moved(7), watch.was_moved(8), watch.was_moved(9)) == (True, False, False)
    watch._note(link_message(NEW, 7))
    assert not watch.was_moved(7)
    watch._note(link_message(GONE, 9, attributes=MOVED))
    watch._note(link_message(GONE, 5, family=7))  # AF_BRIDGE
    assert 5 not in watch._gone
    for index in range(100, 100 + 2 * interfaces.MOST_GONE):
        watch._note(link_message(GONE, index))
    assert len(watch._gone) == interfaces.MOST_GONE
    watch.close()


@pytest.mark.parametrize("cut", range(48))
def test_a_message_that_is_cut_short_is_none(cut: int) -> None:
    watch = interfaces.Watch()
    watch._note(link_message(GONE, 7, attributes=NAMED + MOVED)[:cut])
    watch._note(link_message(GONE, 7, attributes=(NAMED + MOVED)[:cut]))
    watch.close()


def test_where_no_thread_can_be_made_it_is_said_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(namespaces.Thread, "start", refuse)
    there = Namespace(os.open("/proc/self/ns/net", os.O_RDONLY))
    with pytest.raises(HostPortError, match="can't start new thread; raise TasksMax="):
        there.run(own_identity)
    there.close()
