"""Attacks on the content of frames and their net headers: each a counted drop with the chain returned (reaction C).

Virtio 1.2, section 5.1.6. The queue goes on: the next frame passes.
"""

from __future__ import annotations

from tests.driver import NET_HDR_F_NEEDS_CSUM, Piece
from tests.hostile.attack import ring_attack
from tests.hostile.scene import Scene

SHORTEST = 12 + 14
LONGEST = 65535 + 14
GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 3, 4, 5, 0x80


# Too short


@ring_attack("no-runt-check", "drop-keeps-chain")
def chains_of_every_total_from_0_to_25_bytes(scene: Scene) -> None:
    guest = scene.boot()
    packet = guest.packet(scene.frame())
    scene.dropped(guest, "runt", *(guest.send(guest.piece(packet[:total])) for total in range(SHORTEST)))
    scene.works(guest)


@ring_attack("no-runt-check")
def chains_of_every_total_from_0_to_25_bytes_in_single_bytes(scene: Scene) -> None:
    guest = scene.boot(queue_size=1024)
    packet = guest.packet(scene.frame())
    heads = [guest.send(*guest.pieces(packet[:total], [1] * total)) for total in range(SHORTEST)]
    scene.dropped(guest, "runt", *heads)
    scene.works(guest)


@ring_attack("no-runt-check")
def chains_of_every_total_from_0_to_25_bytes_in_indirect_tables(scene: Scene) -> None:
    guest = scene.boot()
    packet = guest.packet(scene.frame())
    heads = []
    for total in range(SHORTEST):
        table = guest.transmitq.indirect(guest.pieces(packet[:total], [total // 2]))
        heads.append(guest.send(table))
    scene.dropped(guest, "runt", *heads)
    scene.works(guest)


@ring_attack("no-runt-check")
def a_chain_of_256_empty_descriptors(scene: Scene) -> None:
    guest = scene.boot()
    scene.dropped(guest, "runt", guest.send(*[guest.piece(b"")] * 256))
    scene.works(guest)


@ring_attack("log-every-frame")
def ten_thousand_runts(scene: Scene) -> None:
    """Each is counted, none is logged."""
    guest = scene.boot()
    pieces = [guest.piece(bytes(20)) for _ in range(250)]
    for _ in range(40):
        guest.fire(*[guest.transmitq.chain([piece]) for piece in pieces])
        guest.transmitq.wait_used(len(pieces), scene.max_wait)
    scene.counted({"runt": 10_000})
    scene.works(guest)


# Too long


@ring_attack("no-oversize-check")
def a_frame_one_byte_longer_than_any_may_be(scene: Scene) -> None:
    """The receiver must have room for it, so the victim sends to the attacker."""
    guest = scene.boot()
    guest.send(*guest.room(12 + LONGEST + 1), queue=0)
    scene.victim.net.send(scene.frame(LONGEST + 1))
    scene.victim.net.wait_sent(scene.max_wait)
    scene.counted({"oversize": 1})


@ring_attack("no-oversize-check")
def a_chain_whose_total_is_many_times_its_memory(scene: Scene) -> None:
    guest = scene.boot()
    whole = guest.memory.regions[0]
    pieces = [Piece(whole.guest_addr, whole.bytes)] * 256
    scene.dropped(guest, "oversize", guest.send(*pieces))
    scene.works(guest)


@ring_attack("sum-in-32-bits")
def a_chain_whose_total_wraps_32_bits_to_a_good_length(scene: Scene) -> None:
    guest = scene.boot(queue_size=4096)
    packet = guest.piece(guest.packet(scene.frame()))
    whole = guest.memory.regions[0]
    pieces = [Piece(whole.guest_addr, whole.bytes)] * ((1 << 32) // whole.bytes)
    scene.dropped(guest, "oversize", guest.send(packet, *pieces))
    scene.works(guest)


@ring_attack("receive-room-trusted")
def a_frame_longer_than_the_peers_receive_buffer(scene: Scene) -> None:
    guest = scene.boot()
    scene.dropped(guest, "oversize", guest.send(guest.piece(guest.packet(scene.frame(2048 - 12 + 1)))))
    scene.works(guest)


@ring_attack("receive-room-trusted")
def a_frame_of_the_longest_legal_length_to_small_receive_buffers(scene: Scene) -> None:
    guest = scene.boot()
    scene.dropped(guest, "oversize", guest.send(guest.piece(guest.packet(scene.frame(LONGEST)))))
    scene.works(guest)


# Headers that ask for what was not negotiated

HEADERS = {
    "needs_csum": (NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 34, 6),
    "needs_csum_with_its_start_past_the_end": (NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 5000, 6),
    "needs_csum_with_its_offset_past_the_end": (NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 34, 0xFFFF),
    "needs_csum_with_start_and_offset_of_65535": (NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 0xFFFF, 0xFFFF),
    "needs_csum_on_the_last_byte": (NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 59, 0),
    "gso_with_a_size_of_0": (NET_HDR_F_NEEDS_CSUM, GSO_TCPV4, 54, 0, 34, 16),
    "gso_with_a_size_of_65535": (NET_HDR_F_NEEDS_CSUM, GSO_TCPV6, 0xFFFF, 0xFFFF, 34, 16),
    "gso_without_a_checksum": (0, GSO_TCPV4, 54, 1448, 0, 0),
    "udp_fragmentation": (0, GSO_UDP, 42, 1448, 34, 6),
    "udp_segmentation": (NET_HDR_F_NEEDS_CSUM, GSO_UDP_L4, 42, 1448, 34, 6),
    "a_gso_type_of_only_ecn": (0, GSO_ECN, 0, 0, 0, 0),
    "an_unknown_gso_type": (0, 0x7F, 0, 0, 0, 0),
}

for words, fields in HEADERS.items():

    def asks_for(scene: Scene, fields: tuple[int, ...] = fields) -> None:
        guest = scene.boot()
        head = guest.send(guest.piece(guest.net.header(*fields) + scene.frame()))
        scene.dropped(guest, "gso_unsupported", head)
        scene.works(guest)

    def asks_for_in_single_bytes(scene: Scene, fields: tuple[int, ...] = fields) -> None:
        guest = scene.boot()
        pieces = guest.pieces(guest.net.header(*fields) + scene.frame(), [1] * 12)
        scene.dropped(guest, "gso_unsupported", guest.send(*pieces))
        scene.works(guest)

    ring_attack("no-gso-check", name=f"a_header_with_{words}_that_was_not_negotiated")(asks_for)
    if words in ("needs_csum", "gso_without_a_checksum"):
        ring_attack("no-gso-check", name=f"a_header_in_12_pieces_with_{words}")(asks_for_in_single_bytes)


# A peer that takes nothing


@ring_attack("dead-peer-holds")
def frames_towards_a_peer_that_is_not_there(scene: Scene) -> None:
    """The receiver is not connected: the sender gets its buffers back."""
    for _ in range(8):
        scene.victim.net.send(scene.frame())
    scene.victim.net.wait_sent(scene.max_wait)
    scene.counted({"link_down": 8})


@ring_attack("dead-peer-holds")
def frames_towards_a_peer_without_receive_buffers(scene: Scene) -> None:
    scene.works(scene.boot(), 0)
    for _ in range(8):
        scene.victim.net.send(scene.frame())
    scene.victim.net.wait_sent(scene.max_wait)
    scene.counted({"no_receive_buffers": 8})
