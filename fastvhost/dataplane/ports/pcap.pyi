"""An interface of this host through libpcap."""

from typing import Literal

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.host_port import HostFiles, HostPort

class PcapError(Exception):
    """A call to libpcap failed. reason: the kind of fault."""

    reason: Literal["library", "permission", "missing", "down", "other"]
    def __init__(self, text: str, reason: Literal["library", "permission", "missing", "down", "other"]) -> None: ...

def pcap_version() -> str:
    """libpcap's name and version, as it tells them. Raises PcapError where libpcap is not installed."""

class Capture:
    """An interface opened with libpcap: immediate, direction in, non-blocking, promiscuous."""

    def __init__(self, interface: str, buffer_bytes: int = ...) -> None:
        """Raises PcapError. buffer_bytes: the kernel's room for frames that wait to be read."""
    def dropped(self) -> int:
        """Frames that the kernel had no room for, so far."""
    def close(self) -> None:
        """Idempotent. While a port uses it, it is closed only when that port lets go of it (detach)."""

class PcapFiles(HostFiles):
    """A capture, open for as long as a port has it. Made by the port."""

class PcapPort(HostPort):
    """Reads up to 64 frames by one pcap_dispatch(), and sends each by a pcap_inject()."""

    def __init__(self, name: str, door: Door) -> None: ...
    def attach(self, capture: Capture) -> None:
        """Use this capture, from the door on. It stays the caller's, who keeps it open until detach() has returned.

        Raises ValueError where it is closed, or a port has it already.
        """
