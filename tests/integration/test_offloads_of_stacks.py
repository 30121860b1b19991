"""What the stacks of two namespaces leave to their cards, over veths with fwd between: packet, xdp and pcap ports."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import pytest

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.hostside import packet
from fastvhost.hostside.packet import PacketService
from tests.integration.namespace import Namespace
from tests.probes.contract import Caller
from tests.unit.test_segmentation import TCPV4, UDP, check, check_datagram, datagrams, super_frame

MIB = 1 << 20
NEEDS_CSUM = 1
PACKET_VNET_HDR, SOL_PACKET, ETH_P_IP = 15, 263, 0x0800
RECEIVER = """
import hashlib, socket
with socket.create_server(("", 5000)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    hashed = hashlib.sha256()
    while data := peer.recv(1 << 20):
        hashed.update(data)
    print(hashed.hexdigest(), flush=True)
    peer.close()
"""
SENDER = """
import hashlib, os, socket, sys
data = os.urandom(int(sys.argv[2]))
with socket.create_connection((sys.argv[1], 5000), 30) as peer:
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)  # the receiver has all of it
print(hashlib.sha256(data).hexdigest())
"""
SWITCHES = """
import array, fcntl, socket, struct, sys
with socket.socket() as sock:
    for code, value in zip(sys.argv[2::2], sys.argv[3::2]):
        command = array.array("I", (int(code), int(value)))
        fcntl.ioctl(sock, 0x8946, struct.pack("16sP16x", sys.argv[1].encode(), command.buffer_info()[0]))
"""
DATAGRAM_BYTES = 700
DATAGRAMS = [bytes([n]) * DATAGRAM_BYTES for n in range(8)]
DATAGRAM_RECEIVER = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.settimeout(60)
    receiver.bind(("", 7))
    print("ready", flush=True)
    print(*[receiver.recv(70_000).hex() for _ in range({len(DATAGRAMS)})], flush=True)
"""
DATAGRAM_SENDER = f"""
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.IPPROTO_UDP, 103, {DATAGRAM_BYTES})  # UDP_SEGMENT
    sender.sendto(bytes.fromhex("{b"".join(DATAGRAMS).hex()}"), (sys.argv[1], 7))
"""
TX_CHECKSUMS, TSO = 0x17, 0x1F
"""ETHTOOL_STXCSUM and ETHTOOL_STSO: what `ethtool -K IFACE tx on` and `tso on` set."""


def set_features(space: Namespace, interface: str, **features: int) -> None:
    words = [str(word) for name, value in features.items() for word in (globals()[name.upper()], value)]
    subprocess.run([*space.prefix, sys.executable, "-c", SWITCHES, interface, *words], check=True, timeout=60)


@dataclass
class Scene:
    """Port v0 leads to stack 0, w0 to stack 1, each in a namespace of its own."""

    near: Namespace
    stacks: tuple[Namespace, Namespace]
    fwd: Fwd
    before: dict[str, Any] = field(default_factory=dict)

    def stream(self, sender: int, bytes: int = 2 * MIB) -> None:
        """TCP from one stack to the other; it arrives as it was sent, or this fails."""
        with self.receiving(1 - sender, RECEIVER) as told:
            sent = self.send(sender, SENDER, str(bytes))
            assert told.readline() == sent
        assert [self.bad_checksums(stack) for stack in self.stacks] == [0, 0]

    def send_datagrams(self, sender: int) -> None:
        """In one call, as a super-frame of UDP; each arrives on its own, or this fails."""
        with self.receiving(1 - sender, DATAGRAM_RECEIVER) as told:
            self.send(sender, DATAGRAM_SENDER)
            assert list(map(bytes.fromhex, told.readline().split())) == DATAGRAMS

    @contextmanager
    def receiving(self, stack: int, program: str) -> Iterator[IO[str]]:
        """A program runs there and is ready. What it tells."""
        self.before = self.fwd.stats()["ports"]
        receiver = subprocess.Popen(
            [*self.stacks[stack].prefix, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        )
        try:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "ready\n"
            yield receiver.stdout
        finally:
            receiver.kill()
            receiver.wait(MAX_WAIT)

    def send(self, stack: int, program: str, *words: str) -> str:
        """To the other stack. What the program there tells."""
        command = [*self.stacks[stack].prefix, sys.executable, "-c", program, f"10.9.0.{2 - stack}", *words]
        return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout

    def counted(self, port: str, figure: str) -> int:
        """Since the stream began."""
        return int(self.fwd.stats()["ports"][port][figure] - self.before[port][figure])

    def longest(self, port: str, way: str) -> float:
        """Mean bytes of a frame since then."""
        return self.counted(port, f"{way}_bytes") / self.counted(port, f"{way}_frames")

    @staticmethod
    def bad_checksums(stack: Namespace) -> int:
        names, figures = re.findall("^Tcp: (.*)", stack.run("cat /proc/net/snmp"), re.MULTILINE)
        return int(dict(zip(names.split(), figures.split(), strict=True))["InCsumErrors"])


@contextmanager
def between(*kinds: str) -> Iterator[Scene]:
    with ExitStack() as opened:
        place = opened.enter_context(short_dir())
        near, *stacks = (opened.enter_context(Namespace()) for _ in range(3))
        for number, (stack, name) in enumerate(zip(stacks, "vw", strict=True)):
            near.run(f"ip link add {name}0 type veth peer name {name}1 netns {stack.name}; ip link set {name}0 up")
            stack.run(f"ip address add 10.9.0.{number + 1}/24 dev {name}1; ip link set {name}1 up")
        ports = [f"{kind}:{name}0" for kind, name in zip(kinds, "vw", strict=True)]
        fwd = opened.enter_context(Fwd(place, ports, prefix=near.prefix))
        for name in "vw":
            fwd.wait_log(f"port {name}0: .* on {name}0.*, MTU 1500")
        yield Scene(near, (stacks[0], stacks[1]), fwd)


@pytest.fixture(scope="module")
def packets() -> Iterator[Scene]:
    with between("packet", "packet") as scene:
        yield scene


@pytest.mark.parametrize("sender", [0, 1])
def test_super_frames_of_a_stack_cross_whole_through_packet_ports(packets: Scene, sender: int) -> None:
    packets.stream(sender)
    ingress, egress = ("v0", "w0") if sender == 0 else ("w0", "v0")
    assert packets.longest(ingress, "rx") > 4000
    assert packets.longest(egress, "tx") > 4000
    assert packets.counted(egress, "cut") == packets.counted(egress, "segmented") == 0


def test_a_super_frame_of_udp_crosses_whole_through_packet_ports(packets: Scene) -> None:
    """Of Linux 6.2 and later, which send and take it there."""
    packets.stream(0, MIB)  # so that both stacks know each other's address
    packets.send_datagrams(0)
    assert packets.counted("v0", "rx_bytes") > sum(map(len, DATAGRAMS))
    assert packets.counted("v0", "rx_frames") < len(DATAGRAMS)
    assert packets.counted("w0", "tx_bytes") == packets.counted("v0", "rx_bytes")
    assert packets.counted("w0", "cut") == packets.counted("w0", "segmented") == 0


@pytest.mark.parametrize("feature", ["tso", "tx_checksums"])
def test_what_an_interface_cannot_do_the_kernel_does_for_a_packet_port(packets: Scene, feature: str) -> None:
    """Its card, that is: `ethtool -K w0 tso off`, while the port is attached."""
    set_features(packets.near, "w0", **{feature: 0})
    try:
        packets.stream(0)
        assert packets.longest("v0", "rx") > 4000
        assert packets.fwd.stats()["ports"]["w0"]["tx_dropped"] == packets.before["w0"]["tx_dropped"]
    finally:
        set_features(packets.near, "w0", tx_checksums=1, tso=1)


@pytest.mark.parametrize("kind", ["xdp", "pcap"])
def test_super_frames_are_cut_and_summed_for_a_port_that_takes_none(kind: str) -> None:
    with between(kind, "packet") as scene:
        scene.stream(1)
        assert scene.counted("v0", "segmented") > scene.counted("v0", "cut") > 0
        if kind == "pcap":
            # Nobody tells libpcap that a frame is one that its sender leaves to be cut.
            set_features(scene.stacks[0], "v1", tso=0)
        scene.stream(0, MIB)  # with checksums that are unfinished, and nobody says so
        assert scene.longest("v0", "rx") < 1600


# A packet port alone, worked by the test


@contextmanager
def packet_port() -> Iterator[tuple[PacketPort, PacketService, Namespace, socket.socket]]:
    """The port on one end of a veth, and a packet socket with the virtio-net header on the other one."""
    with Namespace() as space:
        space.run("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up")
        with space.entered():
            far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
            far.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            far.bind(("v1", ETH_P_IP))
        far.settimeout(MAX_WAIT)
        port = PacketPort("v0", Door())
        service = PacketService(port, "v0", netns=space.name)
        service.open()
        try:
            service.start()
            wait_until("the link", MAX_WAIT, lambda: port.link_up)
            yield port, service, space, far
        finally:
            service.stop(MAX_WAIT)
            port.close()
            far.close()


def test_a_packet_port_says_what_is_missing_in_both_directions() -> None:
    frame = super_frame(bytes(range(256)) * 40)
    asked = (NEEDS_CSUM, TCPV4, 66, 1448, 34, 16)
    with packet_port() as (port, _, _, far):
        caller = Caller(port)
        assert caller.deliver([[frame[:100], frame[100:]]], [asked])[:4] == (1, 1, len(frame), 0)
        there = far.recv(70_000)
        assert there[10:] == frame
        assert struct.unpack("=BBHHHH", there[:10])[1::2] == (TCPV4, 1448, 16)
        plain = [[b"\2" * 12 + b"\x08\0" + bytes([n]) * 50] for n in range(3)]
        assert caller.deliver([*plain[:1], [frame], *plain[1:]], []) == (4, 3, 192, 1, 0)  # too long, and plain
        assert [far.recv(70_000)[10:] for _ in plain] == [data for (data,) in plain]
        far.send(struct.pack("=BBHHHH", *asked) + frame)
        wait_until("a frame", MAX_WAIT, caller.receive)
        assert caller.frames() == [frame]
        (head,) = caller.heads()
        assert head is not None
        assert (*head[:2], *head[3:]) == (NEEDS_CSUM, TCPV4, 1448, 34, 16)


def test_a_super_frame_whose_headers_are_others_than_it_says_is_dropped_and_the_port_goes_on() -> None:
    with packet_port() as (port, _, space, far):
        set_features(space, "v0", tx_checksums=0, tso=0)  # so that the kernel looks, and finds no TCP
        caller, lie = Caller(port), datagrams(bytes(5000))
        asked = (NEEDS_CSUM, TCPV4, 66, 1448, 34, 16)
        assert caller.deliver([[lie]], [asked])[:4] == (1, 0, 0, 1)
        assert port.counters().tx_dropped["gso_unsupported"] == 1
        assert port.events() == []  # nothing for which control would attach it anew
        frame = super_frame(bytes(5000))
        assert caller.deliver([[frame]], [asked])[:4] == (1, 1, len(frame), 0)
        pieces = [check(far.recv(70_000)[10:]) for _ in range(4)]
        assert b"".join(pieces) == bytes(5000)


UDP_ASKED = (NEEDS_CSUM, UDP, 42, DATAGRAM_BYTES, 34, 6)


def deliver_datagrams(port: PacketPort) -> bytes:
    """To the port, as one super-frame. Returns that."""
    frame = datagrams(b"".join(DATAGRAMS))
    dealt_with, frames, *_, drops, _spent = Caller(port).deliver([[frame[:1000], frame[1000:]]], [UDP_ASKED])
    assert (dealt_with, drops) == (1, 0)
    assert frames == (1 if packet.takes_udp_segments() else len(DATAGRAMS))
    return frame


def test_a_super_frame_of_udp_leaves_a_packet_port_whole_and_comes_so() -> None:
    """Of Linux 6.2 and later."""
    with packet_port() as (port, _, _, far):
        frame = deliver_datagrams(port)
        there = far.recv(70_000)
        assert there[10:] == frame
        assert struct.unpack("=BBHHHH", there[:10])[1::2] == (UDP, DATAGRAM_BYTES, 6)
        far.send(struct.pack("=BBHHHH", *UDP_ASKED) + frame)
        caller = Caller(port)
        wait_until("a frame", MAX_WAIT, caller.receive)
        assert caller.frames() == [frame]


def test_an_interface_that_cannot_cut_super_frames_of_udp_has_them_cut_by_the_kernel() -> None:
    with packet_port() as (port, _, space, far):
        set_features(space, "v0", tx_checksums=0)  # which takes segmentation away, too
        deliver_datagrams(port)
        assert [check_datagram(far.recv(70_000)[10:]) for _ in DATAGRAMS] == DATAGRAMS


def test_super_frames_of_udp_are_cut_for_a_kernel_that_does_not_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux did not before 6.2."""
    monkeypatch.setattr(packet, "takes_udp_segments", lambda: False)
    with packet_port() as (port, _, _, far):
        deliver_datagrams(port)
        finished = [far.recv(70_000) for _ in DATAGRAMS]
        assert [struct.unpack("=BBHHHH", there[:10])[1] for there in finished] == [0] * len(DATAGRAMS)
        assert [there[-DATAGRAM_BYTES:] for there in finished] == DATAGRAMS


@pytest.mark.parametrize(
    ("release", "takes"),
    [("6.2.0", True), ("6.1.0-53-amd64", False), ("5.19", False), ("10.0-rc1", True), ("unknown", False)],
)
def test_whether_a_kernel_takes_super_frames_of_udp_is_told_by_its_release(release: str, takes: bool) -> None:
    assert packet.takes_udp_segments(release) == takes
