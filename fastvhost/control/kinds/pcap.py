"""pcap:IFACE, any interface that libpcap can open."""

from __future__ import annotations

from typing import Any

from fastvhost.control import port_keys
from fastvhost.control.finding import Finding
from fastvhost.control.kinds.packet import raw_sockets
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec


def libpcap() -> Finding:
    """Whether the library is there, for pcap: and pcap-file: ports."""
    try:
        from fastvhost.dataplane.ports.pcap import PcapError, pcap_version
    except ImportError:
        return Finding("note", "libpcap: not looked for, the compiled data plane does not load", "see above")
    try:
        return Finding("ok", f"{pcap_version()}: pcap: and pcap-file: ports have their library")
    except PcapError:
        return Finding(
            "note", "libpcap is not installed: no pcap: and pcap-file: ports, others work",
            "sudo apt-get install libpcap0.8",
        )  # fmt: skip


class Pcap(Kind):
    """An interface, through libpcap."""

    name, place = "pcap", 60
    usage = "pcap:IFACE"
    findings = (raw_sockets, libpcap)

    def read(self, where: str, value: str, options: Options) -> Keys:
        """The interface's name."""
        port_keys.interface(where, value, options)
        return ()

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """One queue."""
        from fastvhost.dataplane.ports.pcap import PcapPort

        return PcapPort(spec.name, door)

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service:  # noqa: ARG002
        """Opens the library's handles while the interface is there."""
        from fastvhost.hostside.pcap import PcapService

        return PcapService(port, spec.value)


KIND = Pcap()
