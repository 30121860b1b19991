"""A capture file is played to a guest, and the guest's answers are recorded in another."""

from __future__ import annotations

import struct
from pathlib import Path

from bench.guests.fwd import Fwd
from bench.guests.uml import UmlGuest, UmlMachine
from bench.guests.waits import MAX_WAIT, wait_until

GUEST_MAC, OUR_MAC = bytes.fromhex("525400000001"), bytes.fromhex("5254000000fe")
GUEST, OURS = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 254])


def internet_checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def echo_request(number: int) -> bytes:
    """A ping to the guest, with 40 bytes of data."""
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 68, number, 0, 64, 1, 0) + OURS + GUEST
    icmp = struct.pack(">BBHHH", 8, 0, 0, 7, number) + bytes([number]) * 40
    ip = ip[:10] + internet_checksum(ip).to_bytes(2, "big") + ip[12:]
    icmp = icmp[:2] + internet_checksum(icmp).to_bytes(2, "big") + icmp[4:]
    return GUEST_MAC + OUR_MAC + b"\x08\x00" + ip + icmp


def arp_request() -> bytes:
    """An ARP request for the guest, from which it learns the sender's address."""
    body = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + OUR_MAC + OURS + bytes(6) + GUEST
    return (b"\xff" * 6 + OUR_MAC + b"\x08\x06" + body).ljust(60, b"\0")


def test_a_guest_answers_the_pings_of_a_capture_file_and_its_answers_are_recorded(place: Path) -> None:
    frames = [arp_request(), *(echo_request(number) for number in range(10))]
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    for number, frame in enumerate(frames):
        data += struct.pack("<IIII", 5, 50_000 * number, len(frame), len(frame)) + frame
    (place / "in.pcap").write_bytes(data)
    machine = UmlMachine("a", place / "a.sock", 1)
    # In a loop and in recorded time, since the guest has to start first.
    file_port = f"pcap-file:in={place}/in.pcap,out={place}/out.pcap,loop=yes,timed=yes"
    answers = [number.to_bytes(2, "big") + bytes([number]) * 40 for number in range(10)]
    with Fwd(place, [machine.port, file_port]) as fwd, UmlGuest(machine, place) as guest:
        guest.wait_ready()
        recorded = place / "out.pcap"
        wait_until("all answers are recorded", MAX_WAIT, lambda: all(one in recorded.read_bytes() for one in answers))
        assert fwd.warnings() == []
        assert fwd.show("in")["played"] >= len(frames)
