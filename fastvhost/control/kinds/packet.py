"""packet:IFACE, an interface of this host through AF_PACKET sockets."""

from __future__ import annotations

from typing import Any

from fastvhost.control import host, port_keys
from fastvhost.control.finding import Finding
from fastvhost.control.host_findings import setcap
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec


def raw_sockets() -> Finding:
    """The right that packet: and pcap: ports need."""
    if not host.has_capability(host.CAP_NET_RAW):
        return Finding(
            "note",
            "no CAP_NET_RAW: packet: and pcap: ports do not work, others do",
            setcap("cap_net_raw,cap_net_admin"),
        )
    return Finding("ok", "frames of this host's interfaces can be read and sent: packet: ports work")


class Packet(Kind):
    """An interface, through AF_PACKET."""

    name, place = "packet", 40
    usage = "packet:IFACE[,netns=NS]"
    keys = ("netns",)
    findings = (raw_sockets,)

    def read(self, where: str, value: str, options: Options) -> Keys:
        """The interface's name, and netns=."""
        port_keys.interface(where, value, options)
        return port_keys.as_written(options, "netns")

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """One queue."""
        from fastvhost.dataplane.ports.packet import PacketPort

        return PacketPort(spec.name, door)

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service:  # noqa: ARG002
        """Opens the sockets while the interface is there."""
        from fastvhost.hostside.packet import PacketService

        return PacketService(port, spec.value, netns=spec.option("netns"))


KIND = Packet()
