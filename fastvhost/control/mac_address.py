"""Ethernet addresses as operators write them."""

from __future__ import annotations

import re

from fastvhost.control.errors import UsageError

EXAMPLE = "52:54:00:12:34:56"
WRITTEN = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


def of_one_device(where: str, key: str, text: str) -> str:
    """In lower case: not a group address, not all zeros. IEEE 802.3, section 3.2.3. where, key: for the UsageError."""
    address, give = text.lower(), f"give one of a device, such as {EXAMPLE}"
    if not WRITTEN.fullmatch(text):
        raise UsageError(f"{where}: {key}={text} is no address; write six pairs of digits, such as {key}={EXAMPLE}")
    if int(address[:2], 16) & 1:
        raise UsageError(f"{where}: {key}={text} is the address of a group (its first byte is odd); {give}")
    if not int(address.replace(":", ""), 16):
        raise UsageError(f"{where}: {key}={text} is nobody's address; {give}")
    return address
