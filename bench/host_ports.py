"""Back-ends whose frames pass this host's network stack: guest A - interface - interface - guest B, all on one core.

Each has a network namespace of its own with two interfaces joined to each other: for packet sockets and libpcap the two
ends of a veth, for taps a bridge. A frame that arrives was thus sent to an interface once and received from one once.
The core of the back-end also does the kernel's part of that.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.backends import PEER_MIB, ROOT, START_SECONDS, BackEnd, BackEndError, Testpmd

_NUMBERS = itertools.count()
LEFT, RIGHT = "x0", "x1"


class HostPorts(BackEnd):
    """name: KIND-tap, KIND-packet or KIND-pcap."""

    def __init__(self, name: str, directory: Path, core: int, hugepages: Path | None) -> None:
        super().__init__(name, directory, core, hugepages)
        self.kind = name.partition("@")[0].rpartition("-")[2]
        self.space = f"fvb-{os.getpid()}-{next(_NUMBERS)}"
        self.inside = ["ip", "netns", "exec", self.space]

    def ip(self, *lines: str) -> None:
        """Commands of ip(8) in the namespace."""
        for line in lines:
            try:
                subprocess.run([*self.inside, "ip", *line.split()], check=True, stdout=self._log, stderr=self._log)
            except (OSError, subprocess.SubprocessError) as error:
                raise BackEndError(f"{self.name}: ip {line} failed ({error}); {self.last_words()}") from error

    def open_space(self) -> None:
        """The namespace, and a veth in it where the kind wants one."""
        try:
            subprocess.run(["ip", "netns", "add", self.space], check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise BackEndError(f"{self.name}: no network namespace ({error}); root and iproute2 are wanted") from error
        quiet = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
        subprocess.run([*self.inside, "sysctl", "-qw", *quiet.split()], check=True)
        if self.kind != "tap":
            self.ip(f"link add {LEFT} type veth peer name {RIGHT}", f"link set {LEFT} up", f"link set {RIGHT} up")

    def join_taps(self) -> None:
        """A bridge over the taps, once the back-end has made them."""
        if self.kind != "tap":
            return
        deadline = time.monotonic() + START_SECONDS
        for tap in (LEFT, RIGHT):
            while subprocess.run([*self.inside, "ip", "link", "show", tap], capture_output=True).returncode:
                if time.monotonic() > deadline:
                    raise BackEndError(f"{self.name}: makes no interface {tap}; {self.last_words()}")
                time.sleep(0.05)
        self.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set br0 up")
        self.ip(*(f"link set {tap} master br0 up" for tap in (LEFT, RIGHT)))

    def stop(self) -> None:
        super().stop()
        subprocess.run(["ip", "netns", "delete", self.space], check=False, stderr=subprocess.DEVNULL)


class FastvhostHost(HostPorts):
    """This tree, a worker on one core."""

    def start(self) -> None:
        self.open_space()
        self.env = {"PYTHONPATH": str(ROOT)}
        ports = (self.a, f"{self.kind}:{LEFT}", self.b, f"{self.kind}:{RIGHT}")
        self.run(
            *self.inside, sys.executable, "-m", "fastvhost", "fwd", *(w for port in ports for w in ("--port", port)),
            "--cores", str(self.core), "--control", str(self.directory / "control.sock"), "--idle", "poll",
        )  # fmt: skip
        self.wait_for(self.a, self.b)
        self.join_taps()


class TestpmdHost(HostPorts, Testpmd):
    """DPDK's testpmd with net_tap, net_af_packet or net_pcap, each with what makes it fastest."""

    needs_hugepages = True

    def start(self) -> None:
        self.open_space()
        devices = [
            word
            for n, (sock, interface) in enumerate(((self.a, LEFT), (self.b, RIGHT)))
            for device in (f"net_vhost{n},iface={sock},queues=1", self.device(n, interface))
            for word in ("--vdev", device)
        ]
        process = self.run(
            *self.inside, "dpdk-testpmd", "--lcores", f"0@{self.core},1@{self.core}", "--main-lcore", "0", "--no-pci",
            f"--file-prefix={self.prefix}", "-m", str(PEER_MIB), "--huge-dir", str(self.hugepages),
            "--single-file-segments", *devices,
            "--", "-i", "--forward-mode=io", "--port-topology=paired", "--txd=1024", "--rxd=1024",
            stdin=subprocess.PIPE,
        )  # fmt: skip
        self.wait_for(self.a, self.b)
        self.join_taps()
        assert process.stdin is not None
        process.stdin.write("start\n")
        process.stdin.flush()

    def device(self, n: int, interface: str) -> str:
        """DPDK's words for the interface."""
        if self.kind == "tap":
            return f"net_tap{n},iface={interface}"
        if self.kind == "packet":
            return f"net_af_packet{n},iface={interface},qdisc_bypass=1,framecnt=4096"
        return f"net_pcap{n},rx_iface_in={interface},tx_iface={interface}"


HOST_KINDS: dict[str, type[BackEnd]] = {
    f"{name}-{kind}": back_end
    for kind in ("tap", "packet", "pcap")
    for name, back_end in (("fastvhost", FastvhostHost), ("testpmd", TestpmdHost))
}
