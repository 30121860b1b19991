"""An interface of this host through libpcap."""

from typing import Literal

from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.host_port import HostFiles, HostPort

class PcapError(Exception):
    """libpcap does not do it. reason: what kind of fault it is."""

    reason: Literal["library", "permission", "missing", "down", "other"]
    def __init__(self, text: str, reason: Literal["library", "permission", "missing", "down", "other"]) -> None: ...

def pcap_version() -> str:
    """libpcap's own words about itself. Raises PcapError where there is none."""

class Capture:
    """An interface opened with libpcap: immediate, direction in, non-blocking, promiscuous."""

    def __init__(self, interface: str, buffer_bytes: int = ...) -> None:
        """Raises PcapError. buffer_bytes: the kernel's room for frames that wait to be read."""
    def dropped(self) -> int:
        """Frames that the kernel had no room for, so far."""
    def close(self) -> None:
        """Idempotent. As long as a port has it, no sooner than that lets go (detach)."""

class PcapFiles(HostFiles):
    """A capture, open for as long as a port has it. Made by the port."""

class PcapPort(HostPort):
    """Reads and injects with libpcap: 64 frames a dispatch, one inject a frame."""

    def __init__(self, name: str, door: Door) -> None: ...
    def attach(self, capture: Capture) -> None:
        """Through the door. The capture stays the caller's, open until detach() has returned.

        Raises ValueError where it is closed, or a port has it already.
        """
