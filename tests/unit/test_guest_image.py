"""scripts/guest-image: which packages it keeps, and when it fetches them again. With made-up packages, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from tests.house.sources import ROOT

RELEASE = "9.9-test"
KERNEL = f"linux-image-{RELEASE}"
BUSYBOX = "busybox-static"
APT_CACHE = f"""#!/bin/sh
echo "Package: linux-image-amd64"
echo "Depends: {KERNEL} (= 1)"
for name in {KERNEL} {BUSYBOX}; do
    echo "Package: $name"
    echo "Version: 1"
    echo "SHA256: $(sha256sum < STORE/${{name}}_1_amd64.deb | cut -d ' ' -f 1)"
done
"""
APT_GET = """#!/bin/sh
echo "$@" >> STORE/fetched
cp STORE/*.deb .
"""
GCC = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo a program > "$2"
"""
"""What it compiles is in every guest that other tests boot."""


class Store:
    """Where packages come from, and the cache that they go to."""

    def __init__(self, place: Path) -> None:
        self.place, self.cache = place, place / "cache" / "fastvhost"
        for name, files in ((KERNEL, self.kernel()), (BUSYBOX, {"bin/busybox": Path(busybox()).read_bytes()})):
            self.package(name, files)
        for program, text in (("apt-cache", APT_CACHE), ("apt-get", APT_GET), ("gcc", GCC)):
            (place / program).write_text(text.replace("STORE", str(place)))
            (place / program).chmod(0o755)

    def kernel(self) -> dict[str, bytes]:
        modules = (ROOT / "scripts" / "guest" / "modules").read_text().split()
        files = {f"lib/modules/{RELEASE}/kernel/{module}.ko": module.encode() for module in modules}
        return files | {f"boot/vmlinuz-{RELEASE}": b"a kernel"}

    def package(self, name: str, files: dict[str, bytes]) -> None:
        tree = self.place / name
        about = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: a test\nDescription: a test\n"
        for path, data in (files | {"DEBIAN/control": about.encode()}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
            (tree / path).chmod(0o755)
        # Not compressed, which took most of the time.
        command = ["dpkg-deb", "-Znone", "--build", "--root-owner-group", tree, self.place / f"{name}_1_amd64.deb"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def build(self) -> str:
        """A guest that is not in the cache yet. Returns what was said of it."""
        for image in self.cache.glob("guest-*"):
            shutil.rmtree(image)
        there = {"PATH": f"{self.place}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(self.place / "cache")}
        done = subprocess.run(
            [ROOT / "scripts" / "guest-image"], env=os.environ | there, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        kernel, initramfs = map(Path, done.stdout.split())
        assert kernel.read_bytes() == b"a kernel"
        assert initramfs.exists()
        return done.stderr

    @property
    def fetched(self) -> int:
        return len((self.place / "fetched").read_text().splitlines())

    def kept(self, name: str) -> Path:
        (path,) = self.cache.glob(f"packages-*/{name}_*.deb")
        return path


def busybox() -> str:
    found = shutil.which("busybox")
    assert found, "busybox-static is not installed; scripts/test does that"
    return found


@pytest.fixture
def store() -> Iterator[Store]:
    with short_dir() as place:
        yield Store(place)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_packages_are_fetched_once_and_kept(store: Store) -> None:
    assert store.build() == f"guest-image: fetching {KERNEL} 1 and busybox-static\n"
    assert store.build() == ""
    assert store.fetched == 1


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", [KERNEL, BUSYBOX])
def test_a_damaged_package_is_fetched_again_and_reported(
    store: Store, name: str, damage: Callable[[Path], None]
) -> None:
    store.build()
    damage(store.kept(name))
    said = f"guest-image: fetching {KERNEL} 1 and busybox-static again, what is kept of them is damaged\n"
    assert store.build() == said
    good = (store.place / f"{name}_1_amd64.deb").read_bytes()
    assert store.kept(name).read_bytes() == good
    assert store.build() == ""
    assert store.fetched == 2
