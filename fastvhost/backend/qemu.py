"""What a QEMU takes on its command line, by its version. Its docs/about/deprecated.rst and removed-features.rst."""

from __future__ import annotations

import re

Version = tuple[int, int, int]

RECONNECT_MS = 50
"""Between two attempts to connect: about as long as a new fwd takes until it listens."""
IN_MILLISECONDS_SINCE: Version = (9, 2, 0)
"""reconnect-ms= came; reconnect=, in seconds, was deprecated, and went with 10.2."""
ABORTS: Version = (11, 0, 0)
"""With reconnect-ms= it ends by SIGABRT where nobody listens at its first attempt (QEMU issue 3528)."""
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")


def version_in(text: str) -> Version | None:
    """The first version in a text such as "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", None without one."""
    found = VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def reconnect(version: Version | None) -> str:
    """The option that makes a socket chardev connect again. version: None for the newest."""
    old = version is not None and version < IN_MILLISECONDS_SINCE
    return "reconnect=1" if old else f"reconnect-ms={RECONNECT_MS}"


def named(version: Version) -> str:
    """QEMU 7.2.22."""
    return f"QEMU {'.'.join(map(str, version))}"
