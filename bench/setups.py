"""What scripts/compare records: each set-up answers one question, in one command of less than five minutes.

`scripts/compare --setup NAME` runs it, appends to bench/results/NAME.jsonl and prints the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One load: frames of a size (bytes, or imix) and more options of the guests (bench.guest_load)."""

    size: str
    guests: str = ""
    ports: int = 2
    backends: str = ""
    """Instead of the set-up's."""


@dataclass(frozen=True)
class Setup:
    """Back-ends beside each other, the first compared with each of the others, under several loads in turn."""

    question: str
    backends: str
    cases: tuple[Case, ...]
    latency: bool = False
    starts: int = 1
    """How often all are started anew. How far a cache line of memory is from a core differs by line, so a latency by
    start: up to a fifth."""
    virtio_user: bool = False
    """The guests are DPDK's testpmd on virtio-user devices instead of the built-in ones."""
    gbit: bool = False
    """Rates in Gbit/s: of frames that a back-end may cut."""


def cases(sizes: Iterable[str | int], guests: str = "") -> tuple[Case, ...]:
    """The same guests with frames of several sizes."""
    return tuple(Case(str(size), guests) for size in sizes)


PEERS = "fastvhost,testpmd,ovs"
SETUPS = {
    "rates": Setup(
        "Split rings, by size: what do the peers do, and what does the machine allow?",
        f"{PEERS},probe", cases((64, 512, 1518)),
    ),
    "rates-between": Setup(
        "The same, for the sizes between.",
        f"{PEERS},probe", cases((256, 1024)),
    ),
    "packed": Setup(
        "Packed rings, and packed rings in order.",
        "fastvhost,testpmd", cases((64, 512, 1518), "--packed") + cases((64, 512), "--packed --in-order"),
    ),
    "packed-split": Setup(
        "Is a packed ring as fast as a split one?",
        "fastvhost@packed,fastvhost,fastvhost@packed+in-order,fastvhost@in-order,probe", cases((64, 512, 1518)),
    ),
    "packed-split-dpdk": Setup(
        "The same with DPDK's own driver as both guests, which writes all it hands over anew.",
        "fastvhost@packed,fastvhost", cases((64,), "mrg_rxbuf=1,in_order=0") + cases((64,), "mrg_rxbuf=1,in_order=1"),
        virtio_user=True,
    ),
    "shapes": Setup(
        "Split rings: frames of a header and three pieces, in the ring and in indirect tables; IMIX.",
        PEERS,
        (
            Case("64", "--pieces 4"),
            Case("imix", "--pieces 4 --indirect"),
            Case("imix", "--pieces 2 --indirect"),
            Case("imix"),
        ),
    ),
    "tso": Setup(
        "Guests that leave segments and checksums to their cards; the peers are switched to take that (TSO).",
        "fastvhost,testpmd@tso,ovs@tso",
        cases((65000, 16000), "--asks segments") + cases((1518,), "--asks checksum"),
        gbit=True,
    ),
    "switch": Setup(
        "As a switch: two guests, also beside our own patch; all of four to each other; three and a hub; two of 32.",
        "fastvhost@learn,ovs@normal",
        (
            Case("64", backends="fastvhost@learn,fastvhost,ovs@normal"),
            Case("1518", backends="fastvhost@learn,fastvhost,ovs@normal"),
            Case("64", "--pattern mesh", 4),
            Case("64", "--pattern hub", 4),
            Case("64", "--pattern pair", 32),
            Case("64", "--pattern flood", 4),
        ),
    ),
    "switch-latency": Setup(
        "One frame in flight, one way, as a switch and as a patch cable.",
        "fastvhost@learn,fastvhost", cases((64,)), latency=True, starts=8,
    ),
    "load": Setup(
        "Are the built-in guests as hard a load as vgen, a minimal one in C?",
        "probe,probe@vgen,fastvhost,fastvhost@vgen", cases((64, 1518)),
    ),
    "latency": Setup(
        "One frame in flight, one way.",
        "fastvhost,testpmd,probe", cases((64, 1518)), latency=True,
    ),
    "idle": Setup(
        "Under load: does a worker that may sleep forward as much as one that always polls?",
        "fastvhost@adaptive,fastvhost@poll", cases((64, 1518), "--kick"),
    ),
    "wake": Setup(
        "Out of 20 ms of silence: how long does the first frame take, by kind of idleness?",
        "fastvhost@adaptive,fastvhost@poll,fastvhost@interrupt", cases((64,), "--kick --gap-us 20000"), latency=True,
    ),
    "packet": Setup(
        "Through packet sockets on a veth: guest - veth - guest, once sent and once received by the same core.",
        "fastvhost-packet,testpmd-packet", cases((64, 1518)),
    ),
    "xdp": Setup(
        "Through AF_XDP on a veth, in the same way; packet sockets beside it.",
        "fastvhost-xdp,testpmd-xdp,fastvhost-packet", cases((64, 1518)),
    ),
    "tap": Setup(
        "Through two taps, each with a rule of tc that passes on to the other what its guest sends, in the same way.",
        "fastvhost-tap,testpmd-tap", cases((64, 1518)),
    ),
    "bridge": Setup(
        "Through two taps on a bridge, in the same way.",
        "fastvhost-bridge,testpmd-bridge", cases((64, 1518)),
    ),
    "pcap": Setup(
        "Through libpcap on a veth, in the same way.",
        "fastvhost-pcap,testpmd-pcap", cases((64, 1518)),
    ),
    "virtio-user": Setup(
        "DPDK's own driver as both guests: split rings, mergeable buffers, in order, packed.",
        "fastvhost,testpmd",
        (
            Case("64", "mrg_rxbuf=0,in_order=0"),
            Case("64", "mrg_rxbuf=1,in_order=0"),
            Case("64", "mrg_rxbuf=1,in_order=1"),
            Case("64", "mrg_rxbuf=1,in_order=0,packed_vq=1"),
            Case("64", "mrg_rxbuf=1,in_order=1,packed_vq=1"),
        ),
        virtio_user=True,
    ),
}  # fmt: skip
