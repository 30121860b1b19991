"""Built-in guests at the ports of a switch: who sends to whom. What arrives is counted, and mostly not looked into.

mesh    each of them sends to all others in turn
hub     each sends to the first one, which sends to all others in turn
pair    the first two send to each other, and the others are there
pairs   neighbours send to each other: 0 and 1, 2 and 3, ...
many    each of them has as many addresses as its ring has slots, and sends to a random one of another's
flood   the first one sends to everybody
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from fastvhost.backend.payload import SharedRegion
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import FrontEnd, GuestsError
from fastvhost.driver.load import Load
from fastvhost.driver.settings import PairSettings

PATTERNS = ("mesh", "hub", "pair", "pairs", "many", "flood")
ETHERTYPE = b"\x88\xb5"
EVERYBODY = b"\xff" * 6
MAC_BYTES = 6
TAGS = 255
"""Guests beyond so many neither send nor get anything: a byte of the address tells one from another."""


def mac(guest: int, number: int = 0) -> bytes:
    """An address of a guest's. Number 0 is that which its device has by itself."""
    if number == 0:
        return bytes([0x52, 0x54, 0, 0, 0, guest + 1])
    return bytes([0x02, guest + 1]) + (number * 0x9E3779B1 % (1 << 32)).to_bytes(4, "big")


def targets(pattern: str, guest: int, n_guests: int) -> list[int]:
    """Whom a guest sends to in turn. Nobody: it does not send."""
    others = [each for each in range(n_guests) if each != guest]
    if pattern in ("mesh", "many"):
        return others
    if pattern == "hub":
        return [0] if guest else others
    if pattern == "pair":
        return [1 - guest] if guest < 2 else []
    if pattern == "pairs":
        return [guest ^ 1]
    return others if guest == 0 else []


def aim(device: GuestDevice, pattern: str, guest: int, n_guests: int, slots: int) -> None:
    """Write the addresses into all frames of a guest, which are laid out by now."""
    whom, chosen = targets(pattern, guest, n_guests), random.Random(guest)
    if not whom:
        return
    for slot, at in enumerate(starts_of_frames(device, mac(guest))):
        source, destination = mac(guest), mac(whom[slot % len(whom)])
        if pattern == "flood":
            destination = EVERYBODY
        elif pattern == "many":
            source, destination = mac(guest, 1 + slot), mac(whom[slot % len(whom)], 1 + chosen.randrange(slots))
        device.ram.write(at, destination + source)


def starts_of_frames(device: GuestDevice, own: bytes) -> Iterator[int]:
    """Where in its memory the frames to be sent begin, slot by slot."""
    memory, at = device.ram.read(0, device.ram.bytes), 0
    while (at := memory.find(own + ETHERTYPE, at)) >= 0:
        yield at - MAC_BYTES
        at += 1


def device_of(settings: PairSettings, features: int, pattern: str, guest: int, n_guests: int) -> GuestDevice:
    """A guest's device, whose frames are addressed."""
    whom = targets(pattern, guest, n_guests)
    peer = whom[0] if whom else int(guest == 0)
    tag = guest + 1 if guest < TAGS else 0
    device = GuestDevice(settings, features=features, tag=tag, peer_tag=peer + 1, sends=bool(whom))
    if pattern != "pairs":  # there, all frames are addressed already
        aim(device, pattern, guest, n_guests, settings.queue_size)
    return device


class Counted(NamedTuple):
    """Of all guests."""

    sent: int
    frames: int
    bytes: int


class Crowd:
    """Guests at sockets, all in one thread. Those that neither send nor get anything are only connected.

    content: what frames hold and what of it is checked (driver.settings), which takes pairs that wires join: all that
    a guest gets comes from its neighbour.
    """

    def __init__(self, paths: Sequence[str], settings: PairSettings, pattern: str, content: str = "none") -> None:
        self._settings, self._pattern = replace(settings, content=content), pattern
        self._devices: list[GuestDevice] = []
        self._front_ends = [FrontEnd(path, listen=settings.listen, timeout=settings.timeout) for path in paths]
        self._load: Load | None = None
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        for front_end in self._front_ends:
            front_end.connect()
        n = len(self._front_ends)
        for guest, front_end in enumerate(self._front_ends):
            features = int(front_end.negotiate(self._settings.wish))
            device = device_of(self._settings, features, self._pattern, guest, n)
            self._devices.append(device)
            ram = device.ram
            front_end.share_memory(ram.fd, SharedRegion(ram.guest_addr, ram.bytes, ram.user_addr, 0))
            for index in range(2):
                kick_fd, call_fd = device.kick_fds[index], device.call_fds[index]
                addresses = device.ring_addresses(index)
                front_end.start_ring(index, self._settings.queue_size, addresses, kick_fd, call_fd, device.base)
            for index in range(2):
                front_end.enable_ring(index)

    def start(self) -> None:
        """Those that take part flood, in a thread."""
        whom = [targets(self._pattern, guest, len(self._devices)) for guest in range(len(self._devices))]
        part = {guest for guest, others in enumerate(whom) if others} | {each for others in whom for each in others}
        self._load = Load(*(self._devices[guest] for guest in sorted(part)))
        self._thread = threading.Thread(target=self._load.run, name="guests", daemon=True)
        self._thread.start()

    @property
    def devices(self) -> Sequence[GuestDevice]:
        """By number."""
        return self._devices

    def drain(self) -> None:
        """Send no more, keep receiving."""
        assert self._load
        self._load.drain()

    @property
    def connected(self) -> bool:
        return all(each.connected for each in self._front_ends) and not any(each.broken for each in self._devices)

    def counters(self) -> Counted:
        received = [device.received for device in self._devices]
        sent = sum(device.sent[0] for device in self._devices)
        return Counted(sent, sum(each[0] for each in received), sum(each[1] for each in received))

    def stop(self) -> None:
        """Stop the rings and disconnect."""
        if self._load and self._thread:
            self._load.stop()
            self._thread.join()
        for front_end in self._front_ends:
            with contextlib.suppress(GuestsError):
                for index in range(2):
                    front_end.stop_ring(index)
            front_end.close()
        for device in self._devices:
            device.close()
