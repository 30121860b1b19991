"""scripts/newest-peers: what it fetches, keeps and prints. With made-up packages, and no network."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from tests.house.sources import ROOT

PACKAGE = "user-mode-linux"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
MODULES = "usr/lib/uml/modules/9.9/kernel"
APT_GET = """#!/bin/sh
echo "$@" >> STORE/asked
case "$*" in
    indextargets*) cat STORE/mirrors; exit;;
esac
place=$(dirname "$2")
grep -q 'signed-by=.* target=Packages' "$place/mirror" || exit 9
case "$*" in
    *update*) [ ! -e STORE/unreachable ] && exit; printf "W: so so\\nE: Could not resolve 'mirror'\\n" >&2; exit 100;;
    *install*) cp STORE/*.deb "$place/archives";;
esac
"""
APT_CACHE = f"#!/bin/sh\necho Package: {PACKAGE}\necho Version: 9.9um1\n"


class Store:
    """Where packages come from, and the cache that they go to."""

    def __init__(self, place: Path) -> None:
        self.place, self.cache = place, place / "cache" / "fastvhost"
        loader = Path("/lib64/ld-linux-x86-64.so.2").read_bytes()
        tags = ("net/llc/llc.ko", "net/802/stp.ko", "net/802/garp.ko", "net/802/mrp.ko", "net/8021q/8021q.ko")
        files = {name: name.encode() for name in ("net/core/failover.ko", "drivers/net/net_failover.ko", *tags)}
        self.files = {f"{MODULES}/{name}": data for name, data in files.items()} | {
            f"{MODULES}/drivers/net/virtio_net.ko": b"a driver",
            "usr/bin/linux.uml": Path(shutil.which("true") or "").read_bytes(),
            f"{LIBRARIES}/ld-linux-x86-64.so.2": loader,
            f"{LIBRARIES}/libc.so.6": b"a library",
            "usr/share/doc/user-mode-linux/much": b"more",
        }
        (place / "mirrors").write_text("http://mirror/debian-security/\nhttp://mirror/debian/\n")
        for program, text in (("apt-get", APT_GET), ("apt-cache", APT_CACHE)):
            (place / program).write_text(text.replace("STORE", str(place)))
            (place / program).chmod(0o755)

    def package(self) -> None:
        tree = self.place / PACKAGE
        about = f"Package: {PACKAGE}\nVersion: 9.9um1\nArchitecture: amd64\nMaintainer: a test\nDescription: a test\n"
        for path, data in (self.files | {"DEBIAN/control": about.encode()}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
            (tree / path).chmod(0o755)
        command = ["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, self.place / f"{PACKAGE}_9.9_amd64.deb"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def bring(self, *words: str) -> subprocess.CompletedProcess[str]:
        there = {"PATH": f"{self.place}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(self.place / "cache")}
        command = [ROOT / "scripts" / "newest-peers", *words]
        return subprocess.run(
            command, env=os.environ | there, capture_output=True, text=True, timeout=120, check=False
        )

    def asked(self, what: str) -> int:
        return sum(what in line for line in (self.place / "asked").read_text().splitlines())

    def left(self) -> list[str]:
        return [path.name for path in self.cache.iterdir() if path.is_dir()]


@pytest.fixture
def store() -> Iterator[Store]:
    with short_dir() as place:
        yield Store(place)


def test_a_peer_is_fetched_once_and_what_is_not_needed_of_it_is_not_kept(store: Store) -> None:
    store.package()
    done = store.bring()
    package, version, folder = done.stdout.split()
    assert (package, version) == (PACKAGE, "9.9um1")
    assert done.stderr == "newest-peers: fetching user-mode-linux of Debian testing\n"
    kept = {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
    assert kept == {path for path in store.files if "doc" not in path} | {"about"}

    assert store.bring("uml").stdout == done.stdout
    assert store.asked("install") == 1
    assert store.bring("uml", "--update").stdout == done.stdout
    assert store.asked("install") == 2
    assert store.left() == [Path(folder).name]


def test_programs_of_a_newer_peer_are_started_by_its_own_loader(store: Store) -> None:
    store.package()
    folder = store.bring().stdout.split()[2]
    program = Path(folder, "usr/bin/linux.uml")
    loader = f"{folder}/{LIBRARIES}/ld-linux-x86-64.so.2"
    shown = subprocess.run(["readelf", "-l", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"[Requesting program interpreter: {loader}]" in shown
    subprocess.run([program], check=True, timeout=60)
    Path(loader).unlink()
    with pytest.raises(FileNotFoundError):
        subprocess.run([program], check=True, timeout=60)


def test_without_a_network_it_says_so_in_a_line_and_leaves_nothing(store: Store) -> None:
    (store.place / "unreachable").touch()
    done = store.bring()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "newest-peers: uml: cannot fetch testing from http://mirror/debian/: E: Could not resolve 'mirror'; "
        "is there a network?"
    )
    assert store.left() == []
    assert "Traceback" not in done.stderr


def test_what_it_has_needs_no_network(store: Store) -> None:
    store.package()
    before = store.bring().stdout
    (store.place / "unreachable").touch()
    assert store.bring().stdout == before
    # What is there stays there when something newer cannot be had.
    assert store.bring("--update").returncode == 1
    assert store.bring().stdout == before


def test_where_apt_has_no_mirror_the_error_has_the_remedy(store: Store) -> None:
    (store.place / "mirrors").write_text("http://mirror/debian-security/\n")
    assert "apt knows no Debian mirror; add one to its sources" in store.bring().stderr


def test_a_package_that_lacks_what_is_needed_is_not_kept(store: Store) -> None:
    del store.files[f"{MODULES}/drivers/net/virtio_net.ko"]
    store.package()
    done = store.bring()
    assert "has no usr/lib/uml/modules/*/kernel/drivers/net/virtio_net.ko* any more" in done.stderr
    assert store.left() == []


def test_only_peers_that_there_are_can_be_asked_for(store: Store) -> None:
    done = store.bring("xen")
    assert done.returncode == 2
    assert "there is no peer 'xen'; there are uml, qemu, dpdk, ovs" in done.stderr
