"""Versions of programs that are installed here."""

from __future__ import annotations

import shutil
import subprocess

from fastvhost.backend import qemu

QEMU = "qemu-system-x86_64"
MAX_WAIT = 5.0
"""Seconds that QEMU has to print its version."""


def qemu_version() -> qemu.Version | None:
    """The version of the QEMU in PATH; None where there is none, or it does not print a version."""
    if (path := shutil.which(QEMU)) is None:
        return None
    try:
        answer = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=MAX_WAIT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return qemu.version_in(answer.stdout.decode(errors="replace"))
