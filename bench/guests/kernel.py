"""A guest's kernel, and its command line.

It is unpacked once: an emulated processor needs longer to unpack it than for all the rest of a boot.
"""

from __future__ import annotations

import lzma
import os
import re
from pathlib import Path

WORDS = "console=ttyS0 quiet no_timer_check"
"""On every test guest's command line: a guest that has no CPU for a while at its boot would find its timer broken."""
XZ = b"\xfd7zXZ\x00"
ELF = b"\x7fELF"
PVH_NOTE = re.compile(rb"\x04\0{3}[\x04\x08]\0{3}\x12\0{3}Xen\0")
"""QEMU starts only an ELF image that has this note (XEN_ELFNOTE_PHYS32_ENTRY)."""


def unpacked(vmlinuz: str) -> str:
    """The unpacked kernel, kept beside its image; or that image, where QEMU cannot start the unpacked kernel."""
    path = Path(vmlinuz).with_name("vmlinux")
    if not path.exists():
        kernel = payload(Path(vmlinuz).read_bytes())
        if not kernel.startswith(ELF) or not PVH_NOTE.search(kernel):
            return vmlinuz
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(kernel)
        fresh.rename(path)
    return str(path)


def payload(image: bytes) -> bytes:
    """The kernel that is packed in an image; empty where it is not xz, or is damaged."""
    found = image.find(XZ)
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(image[found:]) if found >= 0 else b""
    except lzma.LZMAError:
        return b""
