"""What guests under user-mode Linux send each other, hashed at both ends: by scripts/guest/traffic.c."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.guests.uml import UmlGuest

SOURCES = Path(__file__).parents[2] / "scripts" / "guest"
PORT = 5000
PATIENCE = 120
"""Seconds after which the program ends by itself."""


@dataclass(frozen=True)
class Seen:
    """What one end saw of a stream."""

    bytes: int
    hash: str


def build(name: str, directory: Path) -> None:
    """A program of scripts/guest, static, for guests that have the directory as /run/shared."""
    command = ["gcc", "-Os", "-static", "-o", directory / name, SOURCES / f"{name}.c"]
    subprocess.run(command, check=True, timeout=60)


def send(sender: UmlGuest, receiver: UmlGuest, protocol: str, address: str, bytes: int) -> tuple[Seen, Seen]:
    """Send so many bytes by tcp or udp to an address of the receiver. Returns what either saw."""
    receiver.run(f"/run/shared/traffic receive {protocol} {PORT}")
    said = sender.run(f"/run/shared/traffic send {protocol} {address} {PORT} {bytes}", PATIENCE)
    sent, received = (line.split() for line in said.splitlines())
    return Seen(int(sent[1]), sent[2]), Seen(int(received[1]), received[2])


def fill(sender: UmlGuest, receiver: UmlGuest, address: str, seconds: float) -> float:
    """TCP for so long, nothing hashed. Returns Gbit/s, by the sender's clock, to the receiver's last byte."""
    receiver.run(f"/run/shared/traffic receive tcp {PORT}")
    count, took = sender.run(f"/run/shared/traffic fill {address} {PORT} {seconds}", PATIENCE).split()
    return int(count) * 8 / 1e9 / float(took)
