"""What `fastvhost doctor` finds about ports towards this host: they need a device, rights, a library."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from fastvhost.control import host
from fastvhost.control.finding import Finding

TUN = Path("/dev/net/tun")
AF_XDP = 44


def _setcap(rights: str) -> str:
    """The command that gives them to this interpreter."""
    return f"run fwd as root, or sudo setcap {rights}=ep {os.path.realpath(sys.executable)}"


def taps() -> Finding:
    """What tap: ports need."""
    if not TUN.exists():
        return Finding("note", f"no {TUN}: tap: ports do not work, others do", "sudo modprobe tun")
    if not os.access(TUN, os.R_OK | os.W_OK):
        return Finding("note", f"{TUN} is not open to this user: no tap: ports", f"sudo chmod 666 {TUN}")
    if not host.has_capability(host.CAP_NET_ADMIN):
        return Finding(
            "note",
            "no CAP_NET_ADMIN: tap: ports work only on taps that root made for this user",
            f"sudo ip tuntap add dev NAME mode tap user {os.getuid()} && sudo ip link set NAME up",
        )
    return Finding("ok", f"{TUN} is there and taps can be made: tap: ports work")


def captures() -> Finding:
    """What packet: and pcap: ports need."""
    if not host.has_capability(host.CAP_NET_RAW):
        return Finding(
            "note",
            "no CAP_NET_RAW: packet: and pcap: ports do not work, others do",
            _setcap("cap_net_raw,cap_net_admin"),
        )
    return Finding("ok", "frames of this host's interfaces can be read and sent: packet: ports work")


def xdp() -> Finding:
    """What xdp: ports need."""
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
            _setcap("cap_net_raw,cap_net_admin,cap_bpf"),
        )
    return Finding("ok", "this kernel has AF_XDP and lets this user load programs: xdp: ports work")


def namespaces() -> Finding:
    """What netns= needs on top of what the kind of port needs."""
    if not host.has_capability(host.CAP_SYS_ADMIN):
        return Finding(
            "note",
            "no CAP_SYS_ADMIN: ports with netns= do not work, others do",
            _setcap("cap_sys_admin,cap_net_raw,cap_net_admin"),
        )
    return Finding("ok", "other network namespaces may be entered: ports with netns= work")


def libpcap() -> Finding:
    """What pcap: and pcap-file: ports need on top."""
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
