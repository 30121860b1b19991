"""The outer guest: Debian's kernel, with vhost-net and CUSE, over this machine's own files. Other guests run in it.

It sees every file of the host and changes none: what is written stays in its memory. Its processors are emulated, and
so are those of a guest in it, once more: expect a hundredth of the speed.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from bench.guests.agent import ObedientGuest, serial_options
from bench.guests.kernel import WORDS
from bench.guests.qemu import MADE, Machine, guest_image
from bench.guests.snapshot import snapshot

MEMORY_SIZE = "3G"


class OuterGuest(ObedientGuest):
    """`follow` or `run` commands in it, as root. `here` makes such a command of words, a directory and settings."""

    def __init__(self, directory: Path) -> None:
        kernel, initramfs = guest_image("outer")
        for device in ("virtio-net-pci", "e1000"):
            # Have it in the cache, which cannot be written from inside.
            snapshot(Machine("kept", Path("none"), 1, kind=device))
        super().__init__(
            "outer",
            [
                "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg,thread=multi", "-cpu", "max",
                "-smp", "2", "-m", MEMORY_SIZE, "-machine", "q35",
                "-kernel", kernel, "-initrd", initramfs, "-append", f"{WORDS} mitigations=off",
                *serial_options(directory, "outer"),
                "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            ],
            directory,
        )  # fmt: skip


def here(words: list[str]) -> str:
    """A command line that runs these words in this directory and with these settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "VIRTUAL_ENV") if name in os.environ}
    kept[MADE] = ":".join(guest_image())
    settings = shlex.join(["env", *(f"{name}={value}" for name, value in kept.items())])
    return f"cd {shlex.quote(str(Path.cwd()))} && {settings} {shlex.join(words)}"
