#!/usr/bin/env python3
"""App1: a host application that talks to a virtual machine, over whichever of the five paths its port names.

It answers ARP and ICMP echo for its address, sends a stream of UDP to the guest and counts what comes back, and prints
rates. What returns the stream is an UDP echo in the guest, or its kernel: with --bounce, the stream is addressed to a
second address of App1, by way of a guest that forwards (there: sysctl -w net.ipv4.ip_forward=1
net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0). Only the port differs between the paths:

    app1.py --port pcap:tap0            paths 1 to 3: the host's tap behind QEMU's e1000, virtio-net or vhost-net
    app1.py --port cuse:fastvhost-a     path 4: a vhost-net device file served by this process
    app1.py --port a.sock               path 5: vhost-user
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import random
import statistics
import struct
import sys
import time
from dataclasses import dataclass, field

import fastvhost

ARP, IPV4 = 0x0806, 0x0800
ICMP, UDP = 1, 17
BROADCAST = b"\xff" * 6
# Ethernet, IPv4 and UDP headers; then our own: a magic word, a number, and when it was sent.
HEADERS = 14 + 20 + 8
STAMP = struct.Struct(">4sIQ")
MAGIC, KNOCK = b"App1", b"Knok"
PATIENCE = 0.5
"""Seconds without an answer after which a window's frames count as lost."""
SMALLEST = HEADERS + STAMP.size


def checksum(data: bytes | memoryview) -> int:
    """The Internet checksum, RFC 1071."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class Figures:
    """What was seen. One-way counts: sent to the guest, received from it."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    intact: int = 0
    """Returned by the guest, once, with the content that was sent."""
    corrupt: int = 0
    duplicated: int = 0
    arp: int = 0
    echo: int = 0
    round_trips: list[float] = field(default_factory=list)


class App1:
    """One application, one guest."""

    def __init__(self, endpoint: fastvhost.Endpoint, options: argparse.Namespace) -> None:
        self.endpoint = endpoint
        self.options = options
        self.mac = bytes.fromhex(options.mac.replace(":", ""))
        self.address = ipaddress.IPv4Address(options.address).packed
        self.guest = ipaddress.IPv4Address(options.guest).packed
        self.target = ipaddress.IPv4Address(options.bounce or options.guest).packed
        self.own = {self.address} | ({self.target} if options.bounce else set())
        self.guest_mac: bytes | None = None
        self.figures = Figures()
        self.template = b""
        self.payload = random.Random(1).randbytes(max(0, options.size - SMALLEST))
        self.seen: set[int] = set()
        self.knocked = False
        self.given_up = 0
        self.progress = (0, 0.0)

    # Frames

    def arp(self, operation: int, mac: bytes, address: bytes, own: bytes = b"") -> bytes:
        """A request for, or an answer to, a neighbour."""
        to = BROADCAST if operation == 1 else mac
        body = struct.pack(">HHBBH6s4s6s4s", 1, IPV4, 6, 4, operation, self.mac, own or self.address, mac, address)
        return (to + self.mac + struct.pack(">H", ARP) + body).ljust(60, b"\0")

    def stream_frame(self, guest_mac: bytes) -> bytes:
        """What every frame of the stream looks like before it gets its number. UDP checksum 0: none."""
        port = self.options.udp_port
        size = self.options.size
        ip = bytearray(
            struct.pack(">BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0x4000, 64, UDP, 0, self.address, self.target)
        )
        struct.pack_into(">H", ip, 10, checksum(ip))
        udp = struct.pack(">HHHH", port, port, size - 34, 0)
        ether = guest_mac + self.mac + struct.pack(">H", IPV4)
        return ether + bytes(ip) + udp + STAMP.pack(MAGIC, 0, 0) + self.payload

    # Receiving

    def receive(self, timeout: float) -> int:
        """Look at what has arrived. How many frames that was."""
        with self.endpoint.recv(64, timeout) as burst:
            answers: list[bytes] = []
            now = time.monotonic_ns()
            for frame in burst:
                self.figures.received += 1
                self.figures.received_bytes += len(frame)
                kind = int.from_bytes(frame[12:14], "big")
                if kind == IPV4 and len(frame) >= HEADERS:
                    self.take_ip(frame, answers, now)
                elif kind == ARP and len(frame) >= 42:
                    self.take_arp(frame, answers)
            if answers:
                self.endpoint.send(answers, timeout=0.1)
            return len(burst)

    def take_arp(self, frame: memoryview, answers: list[bytes]) -> None:
        """Learn the guest's address; tell it ours."""
        operation = int.from_bytes(frame[20:22], "big")
        mac, address = bytes(frame[22:28]), bytes(frame[28:32])
        if address == self.guest:
            self.guest_mac = mac
        if operation == 1 and (asked := bytes(frame[38:42])) in self.own:
            self.figures.arp += 1
            answers.append(self.arp(2, mac, address, asked))

    def take_ip(self, frame: memoryview, answers: list[bytes], now: int) -> None:
        """Answer an echo request; count what is ours."""
        if bytes(frame[30:34]) not in self.own:
            return
        if frame[23] == ICMP and frame[34] == 8:
            answers.append(self.echo_reply(frame))
        elif frame[23] == UDP and len(frame) >= SMALLEST:
            magic, number, sent_at = STAMP.unpack_from(frame, HEADERS)
            if magic != MAGIC:
                self.knocked = self.knocked or magic == KNOCK
                return
            if len(frame) != self.options.size or frame[SMALLEST:] != self.payload or number >= self.figures.sent:
                self.figures.corrupt += 1
            elif number in self.seen:
                self.figures.duplicated += 1
            else:
                self.seen.add(number)
                self.figures.intact += 1
                self.figures.round_trips.append((now - sent_at) / 1e3)

    def echo_reply(self, request: memoryview) -> bytes:
        """RFC 792: the same with type 0 and source and destination exchanged."""
        self.figures.echo += 1
        ip_bytes = int.from_bytes(request[16:18], "big")
        answer = bytearray(request[: 14 + ip_bytes])
        answer[0:6], answer[6:12] = request[6:12], self.mac
        answer[26:30], answer[30:34] = request[30:34], request[26:30]
        answer[34:38] = b"\0\0\0\0"
        struct.pack_into(">H", answer, 36, checksum(answer[34:]))
        return bytes(answer).ljust(60, b"\0")

    # Sending

    def find_guest(self, seconds: float) -> None:
        """Ask for the guest's address until it answers; with a window, knock until what returns the stream does."""
        deadline, ask_at = time.monotonic() + seconds, 0.0
        while self.guest_mac is None or (self.options.window and not self.knocked):
            now = time.monotonic()
            if now > deadline:
                what = "does not answer" if self.guest_mac is None else "does not return the stream"
                raise TimeoutError(f"{self.options.guest} {what} within {seconds:g} s")
            if now >= ask_at:
                ask_at = now + 0.3
                asked = self.arp(1, bytes(6), self.guest)
                if self.guest_mac is not None:
                    knock = bytearray(self.stream_frame(self.guest_mac))
                    STAMP.pack_into(knock, HEADERS, KNOCK, 0, 0)
                    asked = bytes(knock)
                self.endpoint.send([asked], timeout=0.1)
            self.receive(0.1)
        self.template = self.stream_frame(self.guest_mac)

    def send(self, count: int) -> None:
        """So many frames of the stream, as far as buffers are free."""
        burst = self.endpoint.lend(count, self.options.size, timeout=0)
        if len(burst):
            burst.fill(self.template)
            number, now = self.figures.sent, time.monotonic_ns()
            for view in burst:
                STAMP.pack_into(view, HEADERS, MAGIC, number, now)
                number += 1
            self.figures.sent += len(burst)
            self.figures.sent_bytes += len(burst) * self.options.size
            self.endpoint.send(burst)

    def stream(self) -> float:
        """Send for a while at the rate asked for, and count what comes back. Seconds it took."""
        rate, start = self.options.rate, time.monotonic()
        end, report = start + self.options.seconds, start + 1
        before = Figures()
        while (now := time.monotonic()) < end and (not self.options.count or self.figures.sent < self.options.count):
            due = 64 if not rate else min(64, int((now - start) * rate) - self.figures.sent)
            if self.options.count:
                due = min(due, self.options.count - self.figures.sent)
            if self.options.window:
                due = min(due, self.window_left(now))
            if due > 0:
                self.send(due)
            self.receive(0 if due > 0 else 0.0005)
            if now >= report and not self.options.json:
                self.print_rates(before, 1 + now - report)
                before, report = self.copy(), now + 1
        took = time.monotonic() - start
        quiet = time.monotonic() + 1
        while self.outstanding and time.monotonic() < quiet:
            if self.receive(0.05):
                quiet = time.monotonic() + 1
        return took

    def window_left(self, now: float) -> int:
        """How many frames more may be on their way."""
        if self.figures.intact != self.progress[0] or not self.outstanding:
            self.progress = self.figures.intact, now
        elif now - self.progress[1] > PATIENCE:
            self.given_up += self.outstanding
        return int(self.options.window) - self.outstanding

    @property
    def outstanding(self) -> int:
        """Frames of the stream that have not come back, and still may."""
        return max(0, self.figures.sent - self.figures.intact - self.given_up)

    def copy(self) -> Figures:
        return Figures(self.figures.sent, self.figures.sent_bytes, self.figures.received, self.figures.received_bytes)

    def print_rates(self, before: Figures, seconds: float) -> None:
        """One line, as often as once a second."""
        sent, received = self.figures.sent - before.sent, self.figures.received - before.received
        bits = 8 * (self.figures.received_bytes - before.received_bytes)
        print(
            f"to the guest {sent / seconds:9.0f} frames/s, from it {received / seconds:9.0f} frames/s, "
            f"{bits / seconds / 1e6:7.1f} Mbit/s",
            flush=True,
        )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0], epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--port", required=True, metavar="SPEC", help="what fwd --port takes: a.sock, pcap:tap0, cuse:NAME, ...")
    add("--address", default="10.0.0.254", help="App1's own; default %(default)s")
    add("--mac", default="52:54:00:00:00:fe", help="App1's own; default %(default)s")
    add("--guest", default="10.0.0.1", help="the guest's address; default %(default)s")
    add("--bounce", metavar="ADDRESS", help="App1's second address, which the stream goes to by way of the guest")
    add("--udp-port", type=int, default=7, help="of the stream; default %(default)s, echo")
    add("--size", type=int, default=64, metavar="BYTES", help="of a frame of the stream; default %(default)s")
    add("--rate", type=float, default=0, metavar="FRAMES/S", help="default: as fast as it goes")
    add("--count", type=int, default=0, metavar="FRAMES", help="stop after so many; default: --seconds alone decides")
    add("--window", type=int, default=0, metavar="FRAMES", help="wait while so many have not come back; 1: ping-pong")
    add("--seconds", type=float, default=10, help="of the stream; 0: only answer, until ^C; default %(default)s")
    add("--wait", type=float, default=60, metavar="SECONDS", help="for the guest to answer; default %(default)s")
    add("--core", type=int, help="CPU of the forwarding worker; default: any")
    add("--idle", choices=("poll", "adaptive", "interrupt"), default="adaptive", help="default %(default)s")
    add("--json", action="store_true", help="print one object at the end, and nothing else")
    found = parser.parse_args()
    if found.size < SMALLEST or found.size > 9000:
        parser.error(f"--size {found.size}: from {SMALLEST} to 9000 bytes")
    return found


def summary(app: App1, port: fastvhost.Attachment, seconds: float) -> dict[str, object]:
    """Everything that was counted, as --json prints it. Rates per second of the stream."""
    f = app.figures
    trips = sorted(f.round_trips)
    return {
        "port": str(port.spec),
        "seconds": round(seconds, 3),
        "sent": f.sent,
        "intact": f.intact,
        "lost": f.sent - f.intact,
        "corrupt": f.corrupt,
        "duplicated": f.duplicated,
        "received": f.received,
        "received_bytes": f.received_bytes,
        "arp_answered": f.arp,
        "echo_answered": f.echo,
        "sent_per_second": round(f.sent / seconds, 1) if seconds else 0.0,
        "received_per_second": round(f.received / seconds, 1) if seconds else 0.0,
        "round_trip_us": {
            "median": round(statistics.median(trips), 1),
            "p99": round(trips[len(trips) * 99 // 100], 1),
        }
        if trips
        else None,
        "stats": port.stats(),
    }


def main() -> int:
    asked = options()
    try:
        with fastvhost.attach(asked.port, core=asked.core, idle=asked.idle) as port:
            app = App1(port.endpoint, asked)
            if not asked.seconds:
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        app.receive(1)
                seconds = 0.0
            else:
                app.find_guest(asked.wait)
                seconds = app.stream()
            found = summary(app, port, seconds)
    except Exception as error:
        print(f"app1: {error}", file=sys.stderr)
        return 1
    if asked.json:
        print(json.dumps(found))
    else:
        f = app.figures
        print(f"sent {f.sent}, came back intact {f.intact}, corrupt {f.corrupt}, duplicated {f.duplicated}, "
              f"answered {f.arp} ARP and {f.echo} echo requests")  # fmt: skip
    return 1 if app.figures.corrupt or app.figures.duplicated else 0


if __name__ == "__main__":
    sys.exit(main())
