"""Interfaces through libpcap: opened while they are up, and again when they come back."""

from __future__ import annotations

import os
import sys
from typing import Protocol

from fastvhost.dataplane.ports.pcap import Capture, PcapError
from fastvhost.hostside import interfaces
from fastvhost.hostside.errors import HostPortError
from fastvhost.hostside.port_api import HostPortApi
from fastvhost.hostside.service import InterfaceService


class PcapFace(HostPortApi, Protocol):
    """A pcap port of the data plane."""

    def attach(self, capture: Capture) -> None: ...


class PcapService(InterfaceService):
    """Opens the interface, and counts the frames that the kernel dropped."""

    follows_netns = False

    def __init__(self, port: PcapFace, interface: str) -> None:
        super().__init__(port, interface)
        self._pcap = port
        self._capture: Capture | None = None
        self._counted = 0

    def _attach(self) -> str:
        try:
            self._capture = Capture(self._name)
        except PcapError as error:
            raise HostPortError(f"pcap {self._name}: {advice(error)}") from error
        self._counted = 0
        self._pcap.attach(self._capture)
        seen = interfaces.look(self._name)
        return f"capturing on {self._name} with libpcap, MTU {seen.mtu if seen else '?'}"

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._capture = None

    def _kernel_drops(self) -> int:
        if self._capture is None:
            return 0
        before, self._counted = self._counted, self._capture.dropped()
        return max(0, self._counted - before)


def advice(error: PcapError) -> str:
    """libpcap's error and what to do about it, in one line."""
    text = " ".join(str(error).split())
    if error.reason == "permission":
        python = os.path.realpath(sys.executable)
        return (
            f"not permitted (CAP_NET_RAW); run as root, or as root: setcap cap_net_raw,cap_net_admin=ep {python}"
        )
    return text
