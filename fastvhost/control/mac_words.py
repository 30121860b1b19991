"""The words of `fastvhost mac`: addresses and VLANs as people write them. Checked by the verb, and by fwd once more."""

from __future__ import annotations

import re

from fastvhost.control.errors import UsageError

EXAMPLE = "52:54:00:12:34:56"
MOST_VLAN = 4094
"""0: frames that are in no VLAN. 4095 may be no frame's (IEEE 802.1Q)."""


def station(value: object) -> str:
    """An address that one station can have, as 52:54:00:12:34:56. Raises UsageError."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", value):
        raise UsageError(f"mac: '{value}' is no Ethernet address; write it like {EXAMPLE}")
    address = value.lower().replace("-", ":")
    if int(address[:2], 16) & 1:
        raise UsageError(
            f"mac: {address} is a group's address (its first byte is odd): such frames go to all ports; "
            f"give a station's own, like {EXAMPLE}"
        )
    if not int(address.replace(":", ""), 16):
        raise UsageError(f"mac: {address} is nobody's address; give a station's own, like {EXAMPLE}")
    return address


def vlan(value: object) -> int:
    """A number, or its digits, 0 to 4094. Raises UsageError."""
    digits = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,9}", digits) or int(digits) > MOST_VLAN:
        raise UsageError(f"mac: VLAN {value}: give 1 to {MOST_VLAN}, or 0 for frames that are in no VLAN")
    return int(digits)
