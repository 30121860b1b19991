#!/usr/bin/env python3
"""App1: a host application that talks to a virtual machine, over whichever of the five paths its port names.

It answers ARP and ICMP echo for its addresses, sends a stream of UDP to the guest, counts what comes back, verifies
every byte of it and prints rates. Only the port differs between the paths:

    app1.py --port pcap:tap0            paths 1 to 3: the host's tap behind QEMU's e1000, virtio-net or vhost-net
    app1.py --port cuse:fastvhost-a     path 4: a vhost-net device file served by this process
    app1.py --port a.sock               path 5: vhost-user

--stream says which way: "bounce" is addressed to App1's second address by way of a guest that forwards (there: sysctl
-w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0), so that every frame
crosses the path twice. "out" and "in" go one way, and take the program flood in the guest (scripts/guest/flood.c),
which counts and verifies the one and sends the other.
"""

from __future__ import annotations

import argparse
import ipaddress
import itertools
import json
import random
import statistics
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import fastvhost

ARP, IPV4 = 0x0806, 0x0800
ICMP, UDP = 1, 17
BROADCAST = b"\xff" * 6
# Behind Ethernet, IPv4 and UDP headers: a magic word, a number, and what makes the frame as long as asked for.
MAGIC_AT = 14 + 20 + 8
NUMBER_AT, SMALLEST = MAGIC_AT + 4, MAGIC_AT + 12
STREAM, KNOCK = b"App1", b"Knok"
SEEN, SEND, DONE = b"Seen", b"Send", b"Done"
"""The guest's program: what it has counted; floods for so many milliseconds; has flooded."""
NO_NUMBER = bytes(4)
BURST = 64
MAX_WAIT = 0.5
"""Seconds without an answer after which a window's frames count as lost."""
REMEMBERED = 64
"""Streams of which a late frame is still known for one."""


def checksum(data: bytes | bytearray) -> int:
    """The Internet checksum, RFC 1071."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class Figures:
    """What was seen of one stream."""

    sent: int = 0
    intact: int = 0
    """Arrived at its end, once, with the content that was sent."""
    corrupt: int = 0
    duplicated: int = 0
    arp: int = 0
    echo: int = 0
    first: float = 0.0
    last: float = 0.0
    """When the first and the last frame came in."""
    round_trips: list[float] = field(default_factory=list)
    expected: int = 0
    missing: set[int] = field(default_factory=set)

    def take(self, numbers: list[int], now: float) -> None:
        """Frames came in whose content is right."""
        self.first, self.last = self.first or now, now
        end = self.expected + len(numbers)
        if numbers == list(range(self.expected, end)):
            self.intact += len(numbers)
            self.expected = end
            return
        for number in numbers:
            if number >= self.expected:
                self.missing.update(range(self.expected, number))
                self.expected = number + 1
            elif number not in self.missing:
                self.duplicated += 1
                continue
            self.missing.discard(number)
            self.intact += 1


class App1:
    """One application, one guest."""

    def __init__(self, endpoint: fastvhost.Endpoint, options: argparse.Namespace) -> None:
        self.endpoint = endpoint
        self.mac = bytes.fromhex(options.mac.replace(":", ""))
        self.address, self.second, self.guest = (
            ipaddress.IPv4Address(word).packed for word in (options.address, options.bounce, options.guest)
        )
        self.guest_mac: bytes | None = None
        self.streams = 0
        self.earlier: deque[bytes] = deque(maxlen=REMEMBERED)
        """What the frames of the streams before looked like: some may come late, and were counted as lost."""
        self.model = b""
        self.prepare(options)

    # Frames

    def arp(self, operation: int, mac: bytes, address: bytes, own: bytes) -> bytes:
        """An ARP request for, or an ARP reply to, another host."""
        to = BROADCAST if operation == 1 else mac
        body = struct.pack(">HHBBH6s4s6s4s", 1, IPV4, 6, 4, operation, self.mac, own, mac, address)
        return (to + self.mac + struct.pack(">H", ARP) + body).ljust(60, b"\0")

    def udp(self, macs: bytes, addresses: bytes, ttl: int, magic: bytes, number: int = 0) -> bytes:
        """A frame of the stream. UDP checksum 0: none."""
        ip = bytearray(struct.pack(">BBHHHBBH8s", 0x45, 0, self.options.size - 14, 0, 0x4000, ttl, UDP, 0, addresses))
        struct.pack_into(">H", ip, 10, checksum(ip))
        udp = struct.pack(">HHHH", self.options.udp_port, self.options.udp_port, self.options.size - 34, 0)
        return macs + struct.pack(">H", IPV4) + ip + udp + magic + struct.pack(">I", number) + self.payload

    def to_guest(self, magic: bytes, number: int = 0) -> bytes:
        assert self.guest_mac is not None
        target = self.second if self.options.stream == "bounce" else self.guest
        return self.udp(self.guest_mac + self.mac, self.address + target, 64, magic, number)

    def from_guest(self, magic: bytes) -> bytes:
        """What comes of such a frame: the guest's kernel has forwarded it, or its program has turned it round."""
        assert self.guest_mac is not None
        if self.options.stream == "bounce":
            return self.udp(self.mac + self.guest_mac, self.address + self.second, 63, magic)
        turned = self.to_guest(magic)
        return turned[6:12] + turned[:6] + turned[12:26] + turned[30:34] + turned[26:30] + turned[34:]

    # Receiving

    def receive(self, timeout: float) -> int:
        """Look at what has arrived. How many frames that was."""
        with self.endpoint.recv(BURST, timeout) as burst:
            if not len(burst):
                return 0
            now = time.monotonic()
            numbers = burst.numbers(self.model, NUMBER_AT)
            if -1 in numbers:
                answers: list[bytes] = []
                for frame, number in zip(burst, numbers, strict=True):
                    if number < 0:
                        self.take_other(frame, answers)
                if answers:
                    self.endpoint.send(answers, timeout=0.1)
                numbers = [number for number in numbers if number >= 0]
            if numbers:
                # Not one that was given up, with the time since the next one was sent.
                if self.options.window == 1 and numbers[-1] == self.figures.sent - 1:
                    self.figures.round_trips.append((now - self.sent_at) * 1e6)
                self.figures.take(numbers, now)
            return len(burst)

    def take_other(self, frame: memoryview, answers: list[bytes]) -> None:
        """A frame that is not of the stream, or no longer: ARP, an echo request, or what the guest's program says."""
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ARP and len(frame) >= 42:
            self.take_arp(frame, answers)
        elif kind == IPV4 and len(frame) >= SMALLEST and bytes(frame[30:34]) in (self.address, self.second):
            if frame[23] == ICMP and frame[34] == 8:
                answers.append(self.echo_reply(frame))
            elif frame[23] == UDP:
                self.take_message(bytes(frame))

    def take_arp(self, frame: memoryview, answers: list[bytes]) -> None:
        """Learn the guest's address; tell it ours."""
        operation, mac, address = frame[21], bytes(frame[22:28]), bytes(frame[28:32])
        if address == self.guest:
            self.guest_mac = mac
        if operation == 1 and (asked := bytes(frame[38:42])) in (self.address, self.second):
            self.figures.arp += 1
            answers.append(self.arp(2, mac, address, asked))

    def take_message(self, frame: bytes) -> None:
        magic, (number, second) = frame[MAGIC_AT:NUMBER_AT], struct.unpack_from(">II", frame, NUMBER_AT)
        if magic == STREAM:
            self.figures.corrupt += frame[:NUMBER_AT] + NO_NUMBER + frame[NUMBER_AT + 4 :] not in self.earlier
        elif frame[SMALLEST:] != self.payload[SMALLEST - NUMBER_AT - 4 :]:
            pass  # it belongs to a stream before
        elif magic == KNOCK:
            self.knocked = True
        elif magic == SEEN and self.options.stream == "out":
            # The shortest frames have nothing that tells the streams apart, but for what is too much.
            if number + second <= self.figures.sent:
                self.figures.intact, self.figures.corrupt = number, second
                self.figures.first, self.figures.last = self.figures.first or time.monotonic(), time.monotonic()
        elif magic == DONE:
            self.figures.sent, self.done = number, True

    def echo_reply(self, request: memoryview) -> bytes:
        """RFC 792: the same with type 0 and source and destination exchanged."""
        self.figures.echo += 1
        answer = bytearray(request[: 14 + int.from_bytes(request[16:18], "big")])
        answer[0:6], answer[6:12] = request[6:12], self.mac
        answer[26:30], answer[30:34] = request[30:34], request[26:30]
        answer[34:38] = b"\0\0\0\0"
        struct.pack_into(">H", answer, 36, checksum(answer[34:]))
        return bytes(answer).ljust(60, b"\0")

    # Streams

    def run(self, options: argparse.Namespace) -> dict[str, object]:
        """One stream. Everything that was counted, as --json prints it."""
        self.prepare(options)
        self.find_guest(options.wait)
        self.model = self.from_guest(STREAM)
        if options.stream == "out":
            # The guest's program compares what comes with number 0, which must not get lost.
            self.figures.sent = 1
            self.ask_until("arrived", options.wait, self.to_guest(STREAM), "does not count the stream")
        return self.summary(self.listen() if options.stream == "in" else self.send_stream())

    def prepare(self, options: argparse.Namespace) -> None:
        self.options, self.figures = options, Figures()
        self.streams += 1
        self.payload = random.Random(self.streams).randbytes(options.size - NUMBER_AT - 4)
        self.earlier.append(self.model)
        self.model = bytes(SMALLEST)
        """What a frame that arrives looks like, but for its number. No frame is like this one."""
        self.sent_at, self.given_up, self.progress = 0.0, 0, (0, 0.0)
        self.knocked, self.done = options.stream != "bounce", False

    def ask_until(self, answered: str, seconds: float, frame: bytes, complaint: str) -> None:
        """Send a frame again and again until something is there."""
        deadline, ask_at = time.monotonic() + seconds, 0.0
        while not getattr(self, answered):
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"{ipaddress.IPv4Address(self.guest)} {complaint} within {seconds:g} s")
            if now >= ask_at:
                ask_at = now + 0.3
                self.endpoint.send([frame], timeout=0.1)
            self.receive(0.1)

    def find_guest(self, seconds: float) -> None:
        """Until the guest has an address, and returns a frame if it is to."""
        self.ask_until("guest_mac", seconds, self.arp(1, bytes(6), self.guest, self.address), "does not answer")
        self.ask_until("knocked", seconds, self.to_guest(KNOCK), "does not return the stream")

    def send_stream(self) -> float:
        """Send for a while, as fast as window and rate allow, and count what arrives. Seconds it took."""
        asked, figures, template = self.options, self.figures, self.to_guest(STREAM)
        start = time.monotonic()
        report, before = start + 1, (0, 0)
        while (now := time.monotonic()) < start + asked.seconds and not 0 < asked.count <= figures.sent:
            due = min(
                BURST,
                asked.count - figures.sent if asked.count else BURST,
                int((now - start) * asked.rate) - figures.sent if asked.rate else BURST,
                self.window_left(now) if asked.window else BURST,
            )
            if due > 0:
                self.send(due, template)
            self.receive(0 if due > 0 else 0.0005)
            if now >= report and not asked.json:
                sent, arrived = figures.sent - before[0], figures.intact - before[1]
                print(f"{sent} frames sent, {arrived} arrived in this second", flush=True)
                report, before = now + 1, (figures.sent, figures.intact)
        took = time.monotonic() - start
        quiet = time.monotonic() + 1
        while self.outstanding and time.monotonic() < quiet:
            if self.receive(0.05):
                quiet = time.monotonic() + 1
        return took

    def send(self, count: int, template: bytes) -> None:
        """So many frames of the stream, as far as buffers are free."""
        burst = self.endpoint.lend(count, len(template), timeout=0)
        if len(burst):
            burst.fill(template)
            burst.stamp(NUMBER_AT, self.figures.sent)
            self.figures.sent += len(burst)
            self.sent_at = time.monotonic()
            self.endpoint.send(burst)

    def window_left(self, now: float) -> int:
        """How many frames more may be on their way."""
        if self.figures.intact != self.progress[0] or not self.outstanding:
            self.progress = self.figures.intact, now
        elif now - self.progress[1] > MAX_WAIT:
            self.given_up += self.outstanding
        return int(self.options.window) - self.outstanding

    @property
    def outstanding(self) -> int:
        """Frames of the stream that have not arrived, and still may."""
        return max(0, self.figures.sent - self.figures.intact - self.given_up)

    def listen(self) -> float:
        """Let the guest send for a while. Seconds between the first frame and the last."""
        order = self.to_guest(SEND, (self.streams & 0xFFF) << 20 | int(self.options.seconds * 1000))
        self.ask_until("arrived", self.options.wait, order, "does not send")
        while not self.done and time.monotonic() < self.figures.last + 2:
            self.receive(0.1)
        if not self.done:  # how many they were got lost; so many at least
            self.figures.sent = self.figures.expected
        return self.figures.last - self.figures.first

    @property
    def arrived(self) -> int:
        """Whether the stream has begun to arrive."""
        return self.figures.intact

    def summary(self, seconds: float) -> dict[str, object]:
        """Rates are per second of the stream."""
        f, trips = self.figures, sorted(self.figures.round_trips)
        return {
            "stream": self.options.stream,
            "bytes": self.options.size,
            "seconds": round(seconds, 3),
            "sent": f.sent,
            "intact": f.intact,
            "lost": f.sent - f.intact,
            "corrupt": f.corrupt,
            "duplicated": f.duplicated,
            "arp_answered": f.arp,
            "echo_answered": f.echo,
            "frames_per_second": round(f.intact / seconds, 1) if seconds else 0.0,
            "round_trip_us": trips
            and {
                "median": round(statistics.median(trips), 1),
                "p99": round(trips[len(trips) * 99 // 100], 1),
            },
        }


def make_parser() -> argparse.ArgumentParser:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--port", required=True, metavar="SPEC", help="what fwd --port takes: a.sock, pcap:tap0, cuse:NAME, ...")
    add("--address", default="10.0.0.254", help="App1's own; default %(default)s")
    add("--mac", default="52:54:00:00:00:fe", help="App1's own; default %(default)s")
    add("--guest", default="10.0.0.1", help="the guest's address; default %(default)s")
    add("--bounce", metavar="ADDRESS", default="10.0.0.253", help="App1's second address; default %(default)s")
    add("--stream", choices=("bounce", "out", "in"), default="bounce", help="both ways, or one; default bounce")
    add("--udp-port", type=int, default=7, help="of the stream; default %(default)s")
    add("--size", type=int, default=64, metavar="BYTES", help="of a frame of the stream; default %(default)s")
    add("--rate", type=float, default=0, metavar="FRAMES/S", help="default: as fast as it goes")
    add("--count", type=int, default=0, metavar="FRAMES", help="stop after so many; default: --seconds alone decides")
    add("--window", type=int, default=0, metavar="FRAMES", help="wait while so many have not arrived; 1: ping-pong")
    add("--seconds", type=float, default=10, help="of the stream; 0: only answer, until ^C; default %(default)s")
    add("--wait", type=float, default=60, metavar="SECONDS", help="for the guest to answer; default %(default)s")
    add("--core", type=int, help="CPU of the forwarding worker; default: any")
    add("--idle", choices=("poll", "adaptive", "interrupt"), default="adaptive", help="default %(default)s")
    add("--json", action="store_true", help="print one object per stream, and nothing else")
    add("--more", action="store_true", help="then a stream for each line of options that comes on standard input")
    return parser


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    asked = parser.parse_args(words)
    if not SMALLEST <= asked.size <= 1514:
        parser.error(f"--size {asked.size}: from {SMALLEST} to 1514 bytes")
    return asked


def main() -> int:
    parser, failed = make_parser(), False
    asked = parse(parser, sys.argv[1:])
    try:
        with fastvhost.attach(asked.port, core=asked.core, idle=asked.idle) as port:
            app = App1(port.endpoint, asked)
            while not asked.seconds:
                app.receive(1)
            for line in itertools.chain([""], sys.stdin if asked.more else ()):
                found = app.run(parse(parser, sys.argv[1:] + line.split()))
                found |= {"port": str(port.spec), "stats": port.stats()}
                failed = failed or bool(found["corrupt"] or found["duplicated"])
                if asked.json:
                    print(json.dumps(found), flush=True)
                else:
                    print(", ".join(f"{name} {found[name]}" for name in ("sent", "intact", "corrupt", "duplicated")))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        print(f"app1: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
