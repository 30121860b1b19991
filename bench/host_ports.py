"""Back-ends whose frames pass this host's network stack: guest A - interface - interface - guest B, all on one core.

Each has a network namespace of its own with two interfaces joined to each other: for packet sockets, AF_XDP
and libpcap the two ends of a veth; taps by a rule of tc(8), the least the kernel can do between them ("tap"), or by a
bridge ("bridge").
A frame that arrives was thus forwarded twice by the back-end, once to an interface and once from one; what the kernel
does for both and between them is done on the same core.
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
MTU = 2000


class HostPorts(BackEnd):
    """name: KIND- and tap, bridge, packet, xdp or pcap; for fastvhost with :DIRECTORY of another tree."""

    def __init__(self, name: str, directory: Path, core: int, hugepages: Path | None) -> None:
        super().__init__(name, directory, core, hugepages)
        self.joined_by = name.partition("@")[0].partition(":")[0].rpartition("-")[2]
        self.kind = "tap" if self.joined_by == "bridge" else self.joined_by
        self.space = f"fvb-{os.getpid()}-{next(_NUMBERS)}"
        self.inside = ["ip", "netns", "exec", self.space]

    def do(self, *lines: str) -> None:
        """Commands of iproute2 in the namespace."""
        for line in lines:
            try:
                subprocess.run([*self.inside, *line.split()], check=True, stdout=self._log, stderr=self._log)
            except (OSError, subprocess.SubprocessError) as error:
                raise BackEndError(f"{self.name}: {line} failed ({error}); {self.end_of_log()}") from error

    def open_space(self) -> None:
        """The namespace, and a veth in it where the kind wants one."""
        try:
            subprocess.run(["ip", "netns", "add", self.space], check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise BackEndError(f"{self.name}: no network namespace ({error}); run as root, with iproute2") from error
        quiet = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
        subprocess.run([*self.inside, "sysctl", "-qw", *quiet.split()], check=True)
        if self.kind != "tap":
            # Frames of 1518 bytes are longer than the usual MTU allows: here 1518 is without a check sequence.
            up = (f"ip link set {end} mtu {MTU} up" for end in (LEFT, RIGHT))
            self.do(f"ip link add {LEFT} type veth peer name {RIGHT}", *up)

    def join_taps(self) -> None:
        """Connect the two taps, once the back-end has made them: what one guest sends goes out of the other's tap."""
        if self.kind != "tap":
            return
        deadline = time.monotonic() + START_SECONDS
        for tap in (LEFT, RIGHT):
            while subprocess.run([*self.inside, "ip", "link", "show", tap], capture_output=True).returncode:
                if time.monotonic() > deadline:
                    raise BackEndError(f"{self.name}: makes no interface {tap}; {self.end_of_log()}")
                time.sleep(0.05)
            # Without a queueing discipline: a tap has a queue of its own, and never stops the sender.
            self.do(f"ip link set {tap} up", f"tc qdisc replace dev {tap} root noqueue")
        if self.joined_by == "bridge":
            self.do("ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "ip link set br0 up")
            self.do(*(f"ip link set {tap} master br0" for tap in (LEFT, RIGHT)))
            return
        for tap, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
            every = "protocol all u32 match u32 0 0"
            self.do(
                f"tc qdisc add dev {tap} clsact",
                f"tc filter add dev {tap} ingress {every} action mirred egress redirect dev {other}",
            )

    def stop(self) -> None:
        super().stop()
        subprocess.run(["ip", "netns", "delete", self.space], check=False, stderr=subprocess.DEVNULL)


class FastvhostHost(HostPorts):
    """This tree, a worker on one core."""

    def start(self) -> None:
        self.open_space()
        self.env = {"PYTHONPATH": str(Path(self.path or ROOT).resolve())}
        ports = (self.a, f"{self.kind}:{LEFT}", self.b, f"{self.kind}:{RIGHT}")
        self.run(
            *self.inside, sys.executable, "-m", "fastvhost", "fwd", *(w for port in ports for w in ("--port", port)),
            "--cores", str(self.core), "--control", str(self.directory / "control.sock"), "--idle", "poll",
        )  # fmt: skip
        self.wait_for(self.a, self.b)
        self.join_taps()


class TestpmdHost(HostPorts, Testpmd):
    """DPDK's testpmd with net_tap, net_af_packet, net_af_xdp or net_pcap, each with what makes it fastest."""

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
        """DPDK's options for the interface."""
        if self.kind == "tap":
            return f"net_tap{n},iface={interface}"
        if self.kind == "packet":
            return f"net_af_packet{n},iface={interface},qdisc_bypass=1,framecnt=4096"
        if self.kind == "xdp":
            return f"net_af_xdp{n},iface={interface}"
        return f"net_pcap{n},rx_iface_in={interface},tx_iface={interface}"


HOST_KINDS: dict[str, type[BackEnd]] = {
    f"{name}-{kind}": back_end
    for kind in ("tap", "bridge", "packet", "xdp", "pcap")
    for name, back_end in (("fastvhost", FastvhostHost), ("testpmd", TestpmdHost))
}
