"""Senders and receivers that leave more or less to their cards: which pairs of guests there are, and what is sent.

Two guests with ten cards each, so that every two kinds are joined once: to start guests for each would take longer.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path

from bench.guests import traffic
from bench.guests.fwd import IN_PAIRS, Fwd
from bench.guests.uml import UmlGuest, UmlMachine
from tests.integration.frame_capture import append_pcap, faults, read_capture

MTU = 1500
TO_TSHARK = 400
"""Frames of each stream that tshark looks at."""
BYTES = 1_000_003
"""Of a stream. Odd, so that some pieces are."""
VLAN = 5
NO_TSO = "HOST_TSO4+HOST_TSO6+HOST_ECN+HOST_USO+GUEST_TSO4+GUEST_TSO6+GUEST_ECN+GUEST_USO4+GUEST_USO6"
KINDS = {"all": "", "no TSO": NO_TSO, "no CSUM": f"{NO_TSO}+CSUM+GUEST_CSUM", "no MRG_RXBUF": "MRG_RXBUF"}
"""What the port of a guest withholds, by what we call it."""
LARGE = {"all", "no MRG_RXBUF"}
"""Those that send and take super-frames."""
LINKS = list(itertools.combinations_with_replacement(KINDS, 2))
"""Kinds of the first guest's and the second guest's card, by the number of the link."""


@dataclass(frozen=True)
class Cell:
    """One of all that there are: 4 * 4 * 2 * 2 * 2 * 2."""

    sender: str
    receiver: str
    ip: int
    protocol: str
    tagged: bool
    packed: bool

    def __str__(self) -> str:
        tag = "tagged" if self.tagged else "untagged"
        ring = "packed" if self.packed else "split"
        return f"{self.sender} to {self.receiver}, {self.protocol.upper()} over IPv{self.ip} {tag}, {ring}"


CELLS = [
    Cell(*values) for values in itertools.product(KINDS, KINDS, (4, 6), ("tcp", "udp"), (False, True), (False, True))
]


def packed_link(number: int, other_way: bool) -> bool:
    """Whether the rings of a link are packed: for each kind some are, and the others where it is the other way."""
    first, second = (list(KINDS).index(kind) for kind in LINKS[number])
    return ((first + second) % 2 == 1) != other_way


def link_of(cell: Cell) -> int:
    pair = (cell.sender, cell.receiver)
    return LINKS.index(pair if pair in LINKS else pair[::-1])


def cells_of(other_way: bool) -> list[Cell]:
    """Those that the links can show."""
    return [cell for cell in CELLS if packed_link(link_of(cell), other_way) == cell.packed]


def wanted_of(cell: Cell) -> set[object]:
    """Each two of its values, with the number of either; and three that are looked at together."""
    numbered = enumerate((cell.sender, cell.receiver, cell.ip, cell.protocol, cell.tagged, cell.packed))
    return {(cell.sender, cell.receiver, cell.protocol), *itertools.combinations(numbered, 2)}


def some_of(cells: list[Cell]) -> list[Cell]:
    """Those with every pair of values that any has, and every sender, receiver and protocol. Greedy."""
    left: set[object] = set().union(*map(wanted_of, cells))
    chosen: list[Cell] = []
    while left:
        best = max(cells, key=lambda cell: len(wanted_of(cell) & left))
        chosen.append(best)
        left -= wanted_of(best)
    return chosen


@dataclass(frozen=True)
class ManyCards(UmlMachine):
    """A guest with a card for each link."""

    beside: tuple[Path, ...] = ()
    """The sockets of all but the first."""

    def command(self, directory: Path, serial_fd: int) -> list[str]:
        words = super().command(directory, serial_fd)
        at = next(i for i, word in enumerate(words) if word.startswith("virtio_uml.device="))
        return [*words[: at + 1], *(f"virtio_uml.device={path}:1" for path in self.beside), *words[at + 1 :]]


class Matrix:
    """fwd, and two guests with every two kinds of card joined."""

    def __init__(self, directory: Path, other_way: bool) -> None:
        self.directory = directory
        self.captured = directory / "captured.pcap"
        """The first frames of each cell, for tshark."""
        ports = [
            self._port(end, number, kind, packed_link(number, other_way))
            for number, kinds in enumerate(LINKS)
            for end, kind in zip("ab", kinds, strict=True)
        ]
        machines = [
            ManyCards(end, directory / f"{end}0.sock", n, beside=tuple(
                directory / f"{end}{number}.sock" for number in range(1, len(LINKS))
            ))
            for n, end in enumerate("ab", start=1)
        ]  # fmt: skip
        traffic.build("traffic", directory)
        traffic.build("ethtool", directory)
        with contextlib.ExitStack() as stack:
            self.fwd = stack.enter_context(Fwd(directory, ports, IN_PAIRS))
            self.guests = [stack.enter_context(UmlGuest(machine, directory)) for machine in machines]
            for n, guest in enumerate(self.guests, start=1):
                guest.wait_ready(60)
                self._set_up(guest, n)
            self._stack = stack.pop_all()

    def _port(self, end: str, number: int, kind: str, packed: bool) -> str:
        withheld = "+".join(filter(None, ("" if packed else "RING_PACKED", KINDS[kind])))
        return f"vhost-user:{self.directory}/{end}{number}.sock" + (f",without={withheld}" if withheld else "")

    def _set_up(self, guest: UmlGuest, n: int) -> None:
        """Addresses, tags, and no frames put together again: what is captured is what came."""
        guest.run(
            "cd $guest_modules/$(uname -r)/kernel/net && "
            "for m in llc/llc 802/stp 802/garp 802/mrp 8021q/8021q; do insmod $m.ko || exit 1; done"
        )
        guest.run("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; ip address flush dev eth0")
        for number in range(len(LINKS)):
            card = f"eth{number}"
            guest.run(
                f"set -e; echo 0 > /proc/sys/net/ipv6/conf/{card}/accept_dad; ip link set {card} mtu {MTU} up; "
                f"ip link add link {card} name {card}.{VLAN} type vlan id {VLAN}; ip link set {card}.{VLAN} up; "
                f"/run/shared/ethtool -K {card} gro off > /dev/null; "
                + "; ".join(
                    f"ip address add {address(number, n, tagged, ip)}/{24 if ip == 4 else 64} dev {card}{suffix}"
                    for tagged, suffix in ((False, ""), (True, f".{VLAN}"))
                    for ip in (4, 6)
                ),
                60,
            )

    def __enter__(self) -> Matrix:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    def show(self, cell: Cell) -> None:
        """Send a stream, and look at all that arrived."""
        number = link_of(cell)
        to_b = LINKS[number] == (cell.sender, cell.receiver)
        sender, receiver = self.guests if to_b else reversed(self.guests)
        end, n = ("b", 2) if to_b else ("a", 1)
        kept = self.directory / "captured"
        cut_before = self._cut(f"{end}{number}")
        receiver.run(f"/run/shared/traffic capture eth{number} /run/shared/{kept.name}")
        sent, received = traffic.send(sender, receiver, cell.protocol, address(number, n, cell.tagged, cell.ip), BYTES)
        receiver.run("killall traffic; while pidof traffic > /dev/null; do usleep 10000; done")
        assert sent == received, str(cell)
        assert sent.bytes == BYTES
        self.check_frames(cell, kept)
        # Super-frames came whole, or were cut, or there were none.
        was_cut = self._cut(f"{end}{number}") - cut_before
        assert bool(was_cut) == (cell.sender in LARGE and cell.receiver not in LARGE), f"{cell}: {was_cut} cut"

    def check_frames(self, cell: Cell, kept: Path) -> None:
        frames = read_capture(kept)
        append_pcap(self.captured, frames[:TO_TSHARK])
        accepts = frozenset(
            {"CSUM", "TSO4", "TSO6", "USO"} if cell.receiver in LARGE else {"CSUM"} - {cell.receiver[3:]}
        )
        wrong = {f"{fault} ({len(frame.data)} bytes)" for frame in frames for fault in faults(frame, MTU, accepts)}
        assert not wrong, f"{cell}: {sorted(wrong)[:5]}"
        own = [frame for frame in frames if len(frame.data) > 1000]
        assert sum(len(frame.data) for frame in own) > BYTES * 0.9, str(cell)
        assert all(frame.tag == (VLAN if cell.tagged else None) for frame in own), str(cell)
        whole = any(len(frame.data) > 2 * MTU for frame in own)
        assert whole == (cell.sender in LARGE and cell.receiver in LARGE), (
            f"{cell}: {max(len(frame.data) for frame in own)}"
        )

    def rx(self, port: str) -> tuple[int, int]:
        """Frames and bytes from a port so far."""
        counted = self.fwd.stats()["ports"][port]
        return int(counted["rx_frames"]), int(counted["rx_bytes"])

    def _cut(self, port: str) -> int:
        return int(self.fwd.stats()["ports"][port]["cut"])


def address(number: int, n: int, tagged: bool, ip: int) -> str:
    """Of a guest on a link, with the tag or without."""
    return f"10.{1 + tagged}.{number}.{n}" if ip == 4 else f"fd00:{number}:{1 + tagged}::{n}"
