"""A guest's kernel is unpacked once, and not unpacked where QEMU could not start the result."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from bench.guests.kernel import ELF, unpacked

NOTE = bytes.fromhex("04000000 08000000 12000000") + b"Xen\0" + bytes(8)
KERNEL = ELF + bytes(1000) + NOTE + b"the rest"


def image(place: Path, payload: bytes) -> str:
    """A file as Debian installs it: code that unpacks, the kernel, and some more bytes."""
    path = place / "vmlinuz"
    path.write_bytes(b"MZ" + bytes(500) + payload + bytes(8))
    return str(path)


def test_the_kernel_is_kept_beside_its_image_and_not_unpacked_again(tmp_path: Path) -> None:
    vmlinuz = image(tmp_path, lzma.compress(KERNEL))
    kernel = Path(unpacked(vmlinuz))
    assert kernel.read_bytes() == KERNEL
    kernel.write_bytes(b"kept")
    assert unpacked(vmlinuz) == str(kernel)
    assert kernel.read_bytes() == b"kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vmlinux", "vmlinuz"]


@pytest.mark.parametrize(
    "payload",
    [
        b"packed otherwise",
        lzma.compress(KERNEL.replace(NOTE, bytes(len(NOTE)))),
        lzma.compress(b"no kernel" + NOTE),
        lzma.compress(KERNEL)[:40] + b"damaged" * 20,
    ],
    ids=["not xz", "without an entry for QEMU", "no ELF image", "damaged"],
)
def test_another_image_unpacks_itself(tmp_path: Path, payload: bytes) -> None:
    vmlinuz = image(tmp_path, payload)
    assert unpacked(vmlinuz) == vmlinuz
    assert len(list(tmp_path.iterdir())) == 1
