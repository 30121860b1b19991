"""A guest's kernel, and what each is told.

It is unpacked once: an emulated processor needs longer to unpack it than for all the rest of a boot.
"""

from __future__ import annotations

import lzma
import os
import re
from pathlib import Path

WORDS = "console=ttyS0 quiet no_timer_check"
"""Of every test guest's command line. A guest that gets no processor for a while at its boot has no broken timer."""
XZ = b"\xfd7zXZ\x00"
ELF = b"\x7fELF"
PVH_NOTE = re.compile(rb"\x04\0{3}[\x04\x08]\0{3}\x12\0{3}Xen\0")
"""QEMU starts an ELF image that has this one (XEN_ELFNOTE_PHYS32_ENTRY), and no other."""


def unpacked(vmlinuz: str) -> str:
    """The kernel itself, kept beside the image it lies in. That image, where QEMU can start it only so."""
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
    """What a kernel image unpacks when it starts; nothing where that is not xz, or is damaged."""
    found = image.find(XZ)
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(image[found:]) if found >= 0 else b""
    except lzma.LZMAError:
        return b""
