"""Attacks with vhost-user messages: a refused one is answered non-zero or ends the connection (reaction A)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from functools import partial

from tests.frontend import (
    F_PROTOCOL_FEATURES,
    FEATURES,
    NEED_REPLY,
    NO_FD,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_REPLY_ACK,
    REPLY,
    U64,
    VERSION,
    VRING_ADDR,
    VRING_STATE,
    Closed,
    Frontend,
    Request,
    readable,
    vring_addr,
)
from tests.hostile.attack import message_attack, ring_attack, split_attack
from tests.hostile.invariant import Broken
from tests.hostile.scene import Attacker, Scene

BAD_INDICES = (2, 255, 256, 0x10000, 0xFFFFFFFF)
GOOD_PAYLOADS = {
    Request.GET_FEATURES: b"",
    Request.SET_FEATURES: U64.pack(F_PROTOCOL_FEATURES),
    Request.SET_OWNER: b"",
    Request.RESET_OWNER: b"",
    Request.SET_MEM_TABLE: bytes(8),
    Request.SET_VRING_NUM: VRING_STATE.pack(0, 256),
    Request.SET_VRING_ADDR: VRING_ADDR.pack(0, 0, 0, 0, 0, 0),
    Request.SET_VRING_BASE: VRING_STATE.pack(0, 0),
    Request.GET_VRING_BASE: VRING_STATE.pack(0, 0),
    Request.SET_VRING_KICK: U64.pack(NO_FD),
    Request.SET_VRING_CALL: U64.pack(NO_FD),
    Request.SET_VRING_ERR: U64.pack(NO_FD),
    Request.GET_PROTOCOL_FEATURES: b"",
    Request.SET_PROTOCOL_FEATURES: U64.pack(1 << 3),
    Request.GET_QUEUE_NUM: b"",
    Request.SET_VRING_ENABLE: VRING_STATE.pack(0, 1),
    Request.NET_SET_MTU: U64.pack(1500),
    Request.GET_CONFIG: struct.pack("=III", 0, 12, 0) + bytes(12),
    Request.SET_CONFIG: struct.pack("=III", 0, 6, 0) + bytes(6),
    Request.RESET_DEVICE: b"",
    Request.GET_MAX_MEM_SLOTS: b"",
    Request.ADD_MEM_REG: bytes(40),
    Request.REM_MEM_REG: bytes(40),
    Request.SET_STATUS: U64.pack(0xF),
    Request.GET_STATUS: b"",
}
"""Every request, with a payload of the right length. Not each is legal at each moment."""


def negotiated(scene: Scene, *, acks: bool) -> Frontend:
    frontend = scene.connect()
    frontend.negotiate(FEATURES | scene.format.features, protocol(acks))
    return frontend


def running(scene: Scene, *, acks: bool) -> Attacker:
    """The same, with memory and with both rings started."""
    guest = scene.boot(protocol_features=protocol(acks))
    scene.works(guest)
    return guest


def protocol(acks: bool) -> int:
    return PROTOCOL_F_CONFIGURE_MEM_SLOTS | PROTOCOL_F_REPLY_ACK * acks


# Values


def ring_size(scene: Scene, size: int) -> None:
    for guest in scene.each_way():
        frontend = guest.frontend
        frontend.get_vring_base(0)
        scene.refused_by(frontend, partial(start_with, frontend, size))


def start_with(frontend: Frontend, size: int) -> None:
    """It may be refused at SET_VRING_NUM or when the ring is to start."""
    frontend.tell(Request.SET_VRING_NUM, VRING_STATE.pack(0, size))
    frontend.tell(Request.SET_VRING_KICK, U64.pack(NO_FD))


for size in (0, 3, 96, 255, 32769, 65536, 0x80000000, 0xFFFFFFFF):

    def ring_of_size(scene: Scene, size: int = size) -> None:
        ring_size(scene, size)

    split_attack("ring-values-unchecked", name=f"a_ring_of_size_{size}")(ring_of_size)

for request in (
    Request.SET_VRING_NUM,
    Request.SET_VRING_BASE,
    Request.GET_VRING_BASE,
    Request.SET_VRING_ADDR,
    Request.SET_VRING_ENABLE,
):

    def bad_index(scene: Scene, request: Request = request) -> None:
        for index in BAD_INDICES:
            for acks in (True, False):
                payload = struct.pack("<I", index) + GOOD_PAYLOADS[request][4:]
                scene.refused(negotiated(scene, acks=acks), request, payload)

    message_attack("index-unchecked", name=f"{request.name.lower()}_of_rings_that_are_not_there")(bad_index)

for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):

    def bad_fd_index(scene: Scene, request: Request = request) -> None:
        for value in (2, 127, 255):
            for acks in (True, False):
                scene.refused(negotiated(scene, acks=acks), request, U64.pack(value), [scene.eventfd()])
                scene.refused(negotiated(scene, acks=acks), request, U64.pack(value | NO_FD))

    message_attack("index-unchecked", name=f"{request.name.lower()}_of_rings_that_are_not_there")(bad_fd_index)


@split_attack("ring-values-unchecked")
def a_base_out_of_range(scene: Scene) -> None:
    for base in (0x10000, 0x80000000, 0xFFFFFFFF):
        for guest in scene.each_way():
            frontend = guest.frontend
            frontend.get_vring_base(1)

            scene.refused_by(frontend, partial(start_at, frontend, base))


def start_at(frontend: Frontend, base: int) -> None:
    frontend.tell(Request.SET_VRING_BASE, VRING_STATE.pack(1, base))
    frontend.tell(Request.SET_VRING_KICK, U64.pack(1 | NO_FD))


@split_attack("no-avail-jump-check")
def a_base_far_from_the_avail_index(scene: Scene) -> None:
    """In range, but with it the ring has more available buffers than it can hold."""
    guest = scene.boot()
    guest.frontend.get_vring_base(1)
    guest.transmitq.reset()
    guest.transmitq.base = (guest.transmitq.base - 1000) & 0xFFFF
    frame = guest.transmitq.chain([guest.piece(guest.packet(scene.frame()))])
    guest.transmitq.place(*[frame] * guest.transmitq.size)
    guest.frontend.set_up_queue(1, guest.transmitq, call=guest.calls[1], err=guest.errs[1])
    scene.broken(guest)


@split_attack("ring-values-unchecked")
def ring_addresses_where_no_ring_can_be(scene: Scene) -> None:
    """Outside memory, half outside, odd, wrapping: refused at once or when the ring starts."""
    for area in range(3):
        for bad in (0, 2**64 - 1, 2**64 - 64, "odd", "end", "behind"):
            guest = scene.boot()
            frontend, queue, own = guest.frontend, guest.transmitq, guest.memory.regions[0]
            frontend.get_vring_base(1)
            areas = list(VRING_ADDR.unpack(vring_addr(1, queue))[2:5])
            end = own.user_addr + own.bytes
            places = {"odd": areas[area] + 1, "end": end - 16, "behind": end}
            areas[area] = places[bad] if isinstance(bad, str) else bad

            scene.refused_by(frontend, partial(start_with_areas, frontend, areas))


def start_with_areas(frontend: Frontend, areas: Sequence[int]) -> None:
    frontend.tell(Request.SET_VRING_ADDR, VRING_ADDR.pack(1, 0, *areas, 0))
    frontend.tell(Request.SET_VRING_KICK, U64.pack(1 | NO_FD))


# Changes under a running ring


@ring_attack("change-while-running")
def a_ring_size_changed_after_the_start(scene: Scene) -> None:
    """Refused, or without effect on the running ring: frames go on, none twice."""
    unharmed_by(scene, Request.SET_VRING_NUM, 8)


@ring_attack("change-while-running")
def a_base_changed_after_the_start(scene: Scene) -> None:
    unharmed_by(scene, Request.SET_VRING_BASE, 5)


def unharmed_by(scene: Scene, request: Request, value: int) -> None:
    for guest in scene.each_way():
        for _ in range(7):
            scene.works(guest)
        if scene.tolerated(guest.frontend, request, VRING_STATE.pack(1, value)):
            for _ in range(20):
                scene.works(guest)


@ring_attack("change-while-running")
def ring_addresses_changed_to_nowhere_after_the_start(scene: Scene) -> None:
    """Refused, or the ring is broken, or without effect on the running ring."""
    for guest in scene.each_way():
        payload = VRING_ADDR.pack(1, 0, 1 << 60, 1 << 60, 1 << 60, 0)
        if scene.tolerated(guest.frontend, Request.SET_VRING_ADDR, payload) and not readable(guest.errs[1], 0.05):
            scene.works(guest)


@message_attack("ready-too-early")
def a_ring_started_before_anything_else_is_known(scene: Scene) -> None:
    """No memory, no size, no addresses: it is refused or waits; later messages work."""
    for acks in (True, False):
        frontend = negotiated(scene, acks=acks)
        scene.tolerated(frontend, Request.SET_VRING_KICK, U64.pack(1 | NO_FD))


# Requests as such


@message_attack("unknown-request-crash")
def requests_that_nobody_knows(scene: Scene) -> None:
    for request in (0, 41, 99, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        for acks in (True, False):
            scene.refused(negotiated(scene, acks=acks), request, bytes(8))


@message_attack("unknown-request-crash")
def requests_whose_protocol_feature_was_not_negotiated(scene: Scene) -> None:
    """They are refused, answered or ignored; they must not end the process."""
    for request in (19, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 42, 43, 44):
        frontend = negotiated(scene, acks=False)
        scene.tolerated(frontend, request, bytes(8))


@message_attack("features-unchecked")
def features_that_were_not_offered(scene: Scene) -> None:
    for acks in (True, False):
        for bit in (1 << 4, 1 << 63, 2**64 - 1):
            frontend = negotiated(scene, acks=acks)
            scene.refused(frontend, Request.SET_FEATURES, U64.pack(frontend.features | bit))
        for bit in (1 << 1, 1 << 63, 2**64 - 1):
            frontend = negotiated(scene, acks=acks)
            scene.refused(frontend, Request.SET_PROTOCOL_FEATURES, U64.pack(frontend.protocol_features | bit))


@message_attack("payload-size-unchecked")
def payloads_of_every_wrong_length(scene: Scene) -> None:
    for request, good in GOOD_PAYLOADS.items():
        for length in {0, 1, 7, len(good) - 1, len(good) + 1, len(good) + 8, 300} - {len(good), -1}:
            # Some front-ends send a payload with room for more regions than there are.
            if request != Request.SET_MEM_TABLE or length < len(good):
                frontend = negotiated(scene, acks=length % 2 == 0)
                scene.refused(frontend, request, (good + bytes(300))[:length])


@ring_attack("header-unchecked", "one-for-all", "port-dies")
def headers_with_wrong_flags_and_sizes(scene: Scene) -> None:
    for flags, size in (
        (0, 0),
        (2, 0),
        (3, 0),
        (VERSION | REPLY, 0),
        (VERSION | REPLY | NEED_REPLY, 0),
        (VERSION, 0xFFFFFFFF),
        (VERSION, 0x80000000),
        (VERSION, 1 << 20),
    ):
        frontend = running(scene, acks=True).frontend
        frontend.send(Request.GET_FEATURES, flags=flags, size=size)
        scene.closed(frontend)


@message_attack("unknown-flag-crash")
def flag_bits_nobody_knows(scene: Scene) -> None:
    """Reserved bits: ignored or refused."""
    for bit in range(4, 32):
        frontend = negotiated(scene, acks=True)
        frontend.send(Request.GET_QUEUE_NUM, flags=VERSION | 1 << bit)
        scene.tolerated(frontend, Request.GET_QUEUE_NUM)


@message_attack("header-unchecked")
def sixty_four_kilobytes_of_noise(scene: Scene) -> None:
    for _ in range(20):
        frontend = scene.connect()
        try:
            frontend.send_raw(scene.random.randbytes(65536))
        except (Closed, TimeoutError):
            continue
        scene.closed(frontend)


# Half messages and silence


def silent(scene: Scene, data: bytes) -> None:
    """While this connection sends nothing more, its rings and other ports go on; afterwards this port works, too."""
    guest = running(scene, acks=True)
    guest.frontend.send_raw(data)
    scene.arena.exchange("e", scene.arena.friend)
    for index in range(2):
        scene.works(guest, index)


@ring_attack("half-message-blocks", "stats-wait")
def a_header_that_announces_8_bytes_and_4_bytes_and_silence(scene: Scene) -> None:
    silent(scene, struct.pack("<III", Request.SET_VRING_NUM, VERSION, 8) + bytes(4))


@ring_attack("half-message-blocks")
def a_header_that_announces_8_bytes_and_silence(scene: Scene) -> None:
    silent(scene, struct.pack("<III", Request.SET_VRING_NUM, VERSION, 8))


@ring_attack("half-message-blocks")
def five_bytes_of_a_header_and_silence(scene: Scene) -> None:
    silent(scene, struct.pack("<III", Request.SET_VRING_NUM, VERSION, 8)[:5])


@ring_attack("fd-leak", ends=True)
def a_half_message_with_file_descriptors_and_silence(scene: Scene) -> None:
    guest = running(scene, acks=True)
    guest.frontend.send_raw(struct.pack("<III", Request.SET_MEM_TABLE, VERSION, 8) + bytes(4), [scene.eventfd()] * 8)
    scene.arena.exchange("e", scene.arena.friend)
    scene.works(guest)


@message_attack("pieces-refused")
def a_message_one_byte_at_a_time(scene: Scene) -> None:
    """Slow is legal."""
    frontend = negotiated(scene, acks=True)
    for byte in struct.pack("<IIIII", Request.SET_VRING_NUM, VERSION | NEED_REPLY, 8, 0, 256):
        frontend.send_raw(bytes([byte]))
        scene.pause(0.005)
    assert frontend.receive().payload == bytes(8)


@message_attack("answers-block")
def questions_whose_answers_nobody_reads(scene: Scene) -> None:
    """Until the socket is full both ways. That port may wait, or close the connection; the others go on."""
    frontend = negotiated(scene, acks=True)
    frontend.sock.settimeout(0.2)
    try:
        while True:
            frontend.send_raw(struct.pack("<III", Request.GET_FEATURES, VERSION, 0) * 1000)
    except (TimeoutError, Closed):
        pass
    scene.arena.exchange("e", scene.arena.friend)


@ring_attack("second-wins")
def a_second_front_end_on_a_busy_socket(scene: Scene) -> None:
    """Refused, and the first one undisturbed."""
    guest = scene.boot()
    scene.works(guest)
    for _ in range(5):
        second = Frontend.connect(scene.arena.backend.path("a"))
        try:
            second.ask(Request.GET_FEATURES)
            raise Broken("A", "a second front-end is served")
        except Closed:
            second.close()
        scene.works(guest)


@ring_attack("fd-leak")
def three_hundred_connections_at_once(scene: Scene) -> None:
    """The honest connections stay, and the port takes a guest as soon as the flood is over."""
    guest = scene.boot()
    for _ in range(300):
        scene.try_to_connect()
    scene.works(guest)


@message_attack("fd-leak")
def two_hundred_connections_one_after_the_other(scene: Scene) -> None:
    for number in range(200):
        frontend = scene.try_to_connect()
        if frontend and number % 2:
            with contextlib.suppress(Closed):
                frontend.send(Request.SET_VRING_CALL, U64.pack(0), [scene.eventfd()])
        if frontend:
            frontend.close()
