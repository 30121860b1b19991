"""xdp:IFACE, an interface of this host through AF_XDP sockets."""

from __future__ import annotations

import socket
from typing import Any

from fastvhost.control import host, port_keys
from fastvhost.control.finding import Finding
from fastvhost.control.host_findings import setcap
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec

AF_XDP = 44


def xdp_sockets() -> Finding:
    """Whether the kernel has AF_XDP, and this user may load programs."""
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW).close()
        permitted = host.has_capability(host.CAP_NET_ADMIN)
        permitted = permitted and (host.has_capability(host.CAP_BPF) or host.has_capability(host.CAP_SYS_ADMIN))
    except PermissionError:
        permitted = False
    except OSError:
        return Finding("note", "this kernel has no AF_XDP: xdp: ports do not work", "use packet: ports instead")
    if not permitted:
        return Finding(
            "note",
            "no CAP_NET_RAW, CAP_NET_ADMIN or CAP_BPF: xdp: ports want all three, others work without",
            setcap("cap_net_raw,cap_net_admin,cap_bpf"),
        )
    return Finding("ok", "this kernel has AF_XDP and lets this user load programs: xdp: ports work")


class Xdp(Kind):
    """An interface, through AF_XDP."""

    name, place = "xdp", 50
    usage = "xdp:IFACE[,queues=N][,netns=NS]"
    keys = ("queues", "netns")
    findings = (xdp_sockets,)

    def read(self, where: str, value: str, options: Options) -> Keys:
        """The interface's name, how many of its receive queues, and where it is."""
        port_keys.interface(where, value, options)
        return (*port_keys.queues(where, options), *port_keys.as_written(options, "netns"))

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """One socket for each receive queue."""
        from fastvhost.dataplane.ports.xdp import XdpPort

        return XdpPort(spec.name, door, spec.queues)

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service:  # noqa: ARG002
        """Loads the program and opens the sockets while the interface is there."""
        from fastvhost.hostside.xdp import XdpService

        return XdpService(port, spec.value, queues=spec.queues, netns=spec.option("netns"))


KIND = Xdp()
