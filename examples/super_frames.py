#!/usr/bin/env python3
"""What a guest, or this host's stack, leaves to its network card: takes it, says it, and sends it back.

    super_frames.py a.sock              64 KiB of TCP in one piece, from a guest with TSO
    super_frames.py packet:veth0        the same from the stack at the other end of a veth

Whoever takes super-frames gets them back whole; for others the forwarder cuts them and fills in the checksums.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter

import fastvhost

KINDS = {
    0: "a frame",
    fastvhost.GSO_TCPV4: "TCP over IPv4",
    fastvhost.GSO_TCPV6: "TCP over IPv6",
    fastvhost.GSO_UDP_L4: "UDP",
}


def words(asked: fastvhost.Offload) -> str:
    """What is left to be done to a frame."""
    if asked.gso_type:
        return f"{KINDS[asked.gso_type & ~fastvhost.GSO_ECN]}, to be cut into segments of {asked.gso_size} bytes"
    if asked.needs_csum:
        return f"a checksum at {asked.csum_start + asked.csum_offset}, of all from {asked.csum_start} on"
    return "nothing"


def return_burst(endpoint: fastvhost.Endpoint, timeout: float | None = None) -> Counter[str]:
    """Take what has arrived, and send it back with addresses swapped. How many frames left what to others."""
    with endpoint.recv(64, timeout) as burst:
        seen = Counter(words(burst.offload(index)) for index in range(len(burst)))
        for frame in burst:
            frame[0:6], frame[6:12] = bytes(frame[6:12]), bytes(frame[0:6])
        endpoint.send(burst)  # with what each frame asks for; Burst.set_offload would say something else
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Say what frames leave to whoever gets them, and send them back.")
    parser.add_argument("port", help="what fwd --port takes")
    with fastvhost.attach(parser.parse_args().port, offloads=True) as port, contextlib.suppress(KeyboardInterrupt):
        while True:
            for what, count in return_burst(port.endpoint).items():
                print(f"{count}: {what}", flush=True)


if __name__ == "__main__":
    main()
