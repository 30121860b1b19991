"""Programs of this machine that others are started with."""

from __future__ import annotations

import shutil
import subprocess

from fastvhost.backend import qemu

QEMU = "qemu-system-x86_64"
MAX_WAIT = 5.0
"""Seconds that it has to say its version."""


def qemu_version() -> qemu.Version | None:
    """Of the QEMU that is started by its name here; None where there is none, or it does not say."""
    if (path := shutil.which(QEMU)) is None:
        return None
    try:
        answer = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=MAX_WAIT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return qemu.version_in(answer.stdout.decode(errors="replace"))
