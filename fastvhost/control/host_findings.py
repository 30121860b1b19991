"""What `fastvhost doctor` finds about rights that several kinds of port want."""

from __future__ import annotations

import os
import sys

from fastvhost.control import host
from fastvhost.control.finding import Finding


def setcap(rights: str) -> str:
    """The command that gives them to this interpreter."""
    return f"run fwd as root, or sudo setcap {rights}=ep {os.path.realpath(sys.executable)}"


def namespaces() -> Finding:
    """What netns= needs on top of what the kind of port needs."""
    if not host.has_capability(host.CAP_SYS_ADMIN):
        return Finding(
            "note",
            "no CAP_SYS_ADMIN: ports with netns= do not work, others do",
            setcap("cap_sys_admin,cap_net_raw,cap_net_admin"),
        )
    return Finding("ok", "other network namespaces may be entered: ports with netns= work")
