"""Findings of `fastvhost doctor` about rights that several kinds of port need."""

from __future__ import annotations

import os
import sys

from fastvhost.control import host
from fastvhost.control.finding import Finding


def setcap(rights: str) -> str:
    """The command that gives these capabilities to this interpreter."""
    return f"run fwd as root, or sudo setcap {rights}=ep {os.path.realpath(sys.executable)}"


def namespaces() -> Finding:
    """The right that netns= needs beside those of the kind of port."""
    if not host.has_capability(host.CAP_SYS_ADMIN):
        return Finding(
            "note",
            "no CAP_SYS_ADMIN: ports with netns= do not work, others do",
            setcap("cap_sys_admin,cap_net_raw,cap_net_admin"),
        )
    return Finding("ok", "other network namespaces may be entered: ports with netns= work")
