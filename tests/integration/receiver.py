"""A program with a port that receives the frames of a sender in the same namespace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.guests.fwd import ENVIRONMENT
from bench.guests.process import Process
from tests.integration.namespace import Namespace

RECEIVER = """
import sys
import fastvhost
port, wanted = sys.argv[1], int(sys.argv[2])
with fastvhost.attach(port) as attached:
    print("ready", flush=True)
    seen = 0
    while seen < wanted:
        with attached.endpoint.recv(timeout=60) as burst:
            for frame in burst:
                print(bytes(frame).hex(), flush=True)
            seen += len(burst) or wanted
"""
TAG = "81000a2a"
TAGGED = bytes.fromhex(f"ffffffffffff020000000001{TAG}0800" + "ab" * 46)


def received(space: Namespace, place: Path, port: str, wanted: int, sender: str) -> list[bytes]:
    """`wanted` frames that arrive at a port while the Python program `sender` runs."""
    command = [*space.prefix, sys.executable, "-P", "-c", RECEIVER, port, str(wanted)]
    with Process("receiver", command, place, env=ENVIRONMENT) as receiver:
        receiver.wait_log("^ready")
        subprocess.run([*space.prefix, sys.executable, "-c", sender], check=True, timeout=60)
        assert receiver.popen.wait(90) == 0
        return [bytes.fromhex(word) for word in receiver.log().split()[1:]]


def sending(interface: str, frames: list[bytes]) -> str:
    """The program that sends these, as they are."""
    return (
        "import socket\n"
        "out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
        f"out.bind(({interface!r}, 0))\n"
        f"for frame in {frames!r}: out.send(frame)\n"
    )
