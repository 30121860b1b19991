"""A small vhost-user back-end and forwarder, to be broken on purpose: `--bug NAME` leaves out one check.

It takes the subset of `fastvhost fwd`'s command line that the hostile tests use and reports statistics in the same
form, so that the tests can run against it in place of the product. Without a bug it must pass them all.
One thread forwards, one per port talks, one answers statistics.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import fcntl
import itertools
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.hostile.broken import bugs
from tests.hostile.broken.bugs import bug, die
from tests.hostile.broken.door import Door
from tests.hostile.broken.packed import FRESH, PackedRing
from tests.hostile.broken.ring import IN_ORDER, INDIRECT_DESC, PACKED, Bad, Chain, Fault, Illegal, Queue, Region, Table
from tests.hostile.broken.split import SplitRing

MRG_RXBUF, VERSION_1, PROTOCOL = 1 << 15, 1 << 32, 1 << 30
OFFERED = MRG_RXBUF | VERSION_1 | INDIRECT_DESC | PROTOCOL | PACKED | IN_ORDER
FORMATS = {False: SplitRing, True: PackedRing}
REPLY_ACK = 1 << 3
PROTOCOL_OFFERED = 1 << 0 | REPLY_ACK | 1 << 15
MAX_FRAME, HEADER_BYTES = 65535 + 14, 12
MAX_SLOTS = 8
TURN = 1024
"""Descriptors after which the next port has its turn."""
HOLD_SECONDS = 0.1


class Drop(Exception):
    """This frame goes no further, for a counted reason: reaction C."""


class Refused(Drop):
    """The same for a frame that was one, at the port that it goes to."""


class Hold(Exception):
    """This frame waits for a receive buffer."""


def hung_up(conn: socket.socket) -> bool:
    poller = select.poll()
    poller.register(conn, 0)
    return bool(poller.poll(0))


class Port:
    """A listening socket, at most one front-end on it, and its pair of queues."""

    def __init__(self, path: str) -> None:
        self.path, self.name = path, Path(path).stem
        self.drops: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """On the way to its guest."""
        self.frames: Counter[str] = Counter()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.conn: socket.socket | None = None
        self.faulted, self.hold_since, self.lock = False, 0.0, threading.Lock()
        self.peer: Port = self
        self.filled: list[int] = []
        self.logged: list[float] = []
        self.forget()

    def listen(self) -> None:
        self.listener.bind(self.path)
        self.listener.listen(64)

    def forget(self) -> None:
        self.features = self.protocol = 0
        self.table = Table([])
        self.queues = [Queue(self, index, FORMATS) for index in range(2)]
        self.faulted, self.hold_since = False, 0.0

    # The data plane, under DOOR

    def forward(self) -> bool:
        """Take frames from this port's transmitq to its peer. Whether there was any."""
        queue = self.queues[1]
        try:
            try:
                return self.turn(queue)
            finally:
                queue.end_turn()
                self.peer.queues[0].end_turn()
        except Bad as bad:
            self.broken(queue, str(bad))
        except Fault:
            self.faulted = True
        return True

    def turn(self, queue: Queue) -> bool:
        worked = False
        self.table.check()
        turn_ends = Queue.descriptors + (1 << 40 if bug("no-time-for-others") else TURN)
        for _ in range(queue.size):
            chain = queue.peek() if Queue.descriptors <= turn_ends else None
            if not chain:
                break
            try:
                self.peer.deliver(self.frame(chain.pieces))
            except Drop as drop:
                self.count(drop)
                if bug("drop-keeps-chain"):
                    queue.skip(chain)
                    continue
            except Hold:
                now = time.monotonic()
                self.hold_since = self.hold_since or now
                if now - self.hold_since < HOLD_SECONDS or bug("dead-peer-holds"):
                    return worked
                self.count(Refused("no_receive_buffers"))
            else:
                self.frames["rx"] += 1
                self.hold_since = 0.0
            queue.skip(chain)
            queue.done(chain)
            worked = True
        return worked

    def frame(self, pieces: list[tuple[int, int]]) -> bytes:
        total = sum(n for _, n in pieces)
        if bug("layout-assumed") and len(pieces) > 1 and (len(pieces) > 2 or pieces[0][1] != HEADER_BYTES):
            raise Drop("runt")
        if bug("sum-in-32-bits") and total >= 2**32:
            pieces, total = pieces[:1], total % 2**32
        if total < HEADER_BYTES + (60 if bug("short-frames-refused") else 14) and not bug("no-runt-check"):
            raise Drop("runt")
        if total > HEADER_BYTES + MAX_FRAME and not bug("no-oversize-check"):
            raise Drop("oversize")
        data = b"".join(self.table.read(addr, n) for addr, n in pieces)
        if (data[0] & 1 or data[1]) and not bug("no-gso-check"):
            raise Drop("gso_unsupported")
        if bug("unused-fields-checked") and any(data[:10]):
            raise Drop("gso_unsupported")
        header = data[:10] if bug("header-passed-on") else bytes(10)
        return header + b"\1\0" + data[12:]

    def deliver(self, data: bytes) -> None:
        queue = self.queues[0]
        if not self.conn:
            raise Hold if bug("dead-peer-holds") else Refused("link_down")
        if not queue.live or queue.broken or not queue.enabled:
            raise Refused("ring_disabled")
        try:
            chains = self.room_for(data, queue)
            if bug("receive-room-trusted"):
                self.table.write(chains[0].pieces[0][0], data)
                filled = [(chains[0], len(data))]
            else:
                if not bug("merge-count-of-1"):
                    data = data[:10] + struct.pack("<H", len(chains)) + data[12:]
                filled = [(chain, self.fill(chain.pieces, data, i)) for i, chain in enumerate(chains)]
            queue.skip(*chains[: len(filled)])
            queue.filled(*filled)
        except Bad as bad:
            self.broken(queue, str(bad))
            raise Refused("bad_descriptor") from None
        except Fault:
            self.faulted = True
            raise Refused("link_down") from None
        if not bug("delivered-uncounted"):
            self.frames["tx"] += 1

    def room_for(self, data: bytes, queue: Queue) -> list[Chain]:
        """Receive chains that hold this frame, checked whole before any is written."""
        chains: list[Chain] = []
        room, too_many = 0, Queue.descriptors + (1 << 40 if bug("no-time-for-others") else 2 * TURN)
        while room < len(data) + bug("room-to-spare"):
            chain = queue.peek(chains)
            if not chain:
                if sum(chain.slots if queue.packed else 1 for chain in chains) == queue.size:
                    raise Refused("oversize")
                if chains and bug("merge-in-part"):
                    break
                raise Hold
            chains.append(chain)
            room += sum(n for _, n in chain.pieces)
            if bug("receive-room-trusted"):
                break
            if Queue.descriptors > too_many:
                raise Refused("oversize")
            if room < HEADER_BYTES and not (bug("merge-short-header") and self.features & MRG_RXBUF):
                raise Bad("a receive chain is shorter than the net header")
            if room < len(data) + bug("room-to-spare") and not self.features & MRG_RXBUF:
                raise Refused("oversize")
        return chains

    def fill(self, pieces: list[tuple[int, int]], data: bytes, number: int) -> int:
        """Write the part of a frame that belongs into its chain of this number; the bytes written."""
        at = sum(self.filled[:number])
        start = at
        for addr, n in pieces:
            self.table.write(addr, data[at : at + n])
            at = min(at + n, len(data))
        self.filled[number:] = [at - start]
        return at - start

    def count(self, drop: Drop) -> None:
        """What never became a frame here, what did at the port that it went to."""
        if isinstance(drop, Refused):
            self.frames["rx"] += 1
            self.peer.refused[str(drop)] += 1
        else:
            self.drops[str(drop)] += 1
        if bug("log-every-frame"):
            self.log(f"dropped a frame: {drop}")

    def broken(self, queue: Queue, why: str) -> None:
        if bug("crash-on-bad-ring"):
            die(why)
        self.drops["bad_descriptor"] += queue.index  # for a receiveq, the frame counts
        self.log(f"ring {queue.index} is broken: {why}")
        queue.broken, queue.ever_broken = not bug("bad-ring-goes-on"), True
        if queue.fds["err"] >= 0 and not bug("no-err-event"):
            queue.notify("err")
        if not queue.broken:
            queue.ring.give_back_bad()

    def log(self, text: str) -> None:
        """Ten lines in ten seconds, and no more."""
        now = time.monotonic()
        self.logged = [then for then in self.logged if then > now - 10.0]
        if len(self.logged) < 10 or bug("log-every-frame"):
            self.logged.append(now)
            print(f"port {self.name}: {text}", file=sys.stderr, flush=True)

    # The control plane: one thread per port

    def serve(self) -> None:
        while True:
            kicks = [q.fds["kick"] for q in self.queues if bug("kick-spins") and q.fds["kick"] >= 0]
            watched = [s.fileno() for s in (self.listener, self.conn) if s] + kicks
            ready = select.select(watched, [], [], 0.02)[0]
            if self.listener.fileno() in ready:
                new = self.listener.accept()[0]
                if self.conn and bug("second-wins"):
                    self.disconnect("replaced")
                if self.conn and hung_up(self.conn):  # and came back before we looked
                    self.disconnect("end of file")
                if self.conn:
                    new.close()
                else:
                    self.conn = new
            elif self.faulted:
                self.disconnect("its memory became shorter")
            elif self.conn and self.conn.fileno() in ready:
                with self.lock:
                    self.message()

    def message(self) -> None:
        """Receive and handle one message; whatever it brings in file descriptors has an owner or is closed."""
        self.arrived: list[int] = []
        reply_wanted = False
        try:
            with DOOR if bug("half-message-blocks") else contextlib.nullcontext():
                request, flags, size = struct.unpack("<III", self.receive(12))
                if (flags & 7 != 1 or size > 4096) and not bug("header-unchecked"):
                    raise ConnectionError(f"a message with flags {flags:#x} and {size} bytes")
                payload = self.receive(size)
            if flags >> 4 and bug("unknown-flag-crash"):
                die("unknown flags")
            reply_wanted = bool(flags & 8 and self.protocol & REPLY_ACK)
            if request not in HANDLERS and bug("unknown-request-crash"):
                die("unknown request")
            name, payload_bytes, max_fds = HANDLERS.get(request, ("unknown", None, 0))
            if bug("payload-size-unchecked"):
                payload = payload[: payload_bytes or size].ljust(payload_bytes or 8, b"\0")
            elif payload_bytes is not None and size != payload_bytes:
                raise Illegal(f"{size} bytes of payload")
            if len(self.arrived) > max_fds and not bug("table-length-trusted"):
                if bug("surplus-fds-crash"):
                    die("file descriptors")
                raise Illegal(f"{len(self.arrived)} file descriptors")
            with DOOR:
                reply = getattr(self, name)(payload)
                if bug("slow-door") and request in DOOR_MESSAGES:
                    time.sleep(0.2)
            if reply is not None or reply_wanted:
                self.answer(request, struct.pack("<Q", 0) if reply is None else reply)
        except Illegal as error:
            if reply_wanted and name not in ("get", "get_vring_base"):
                self.answer(request, struct.pack("<Q", 1))
            else:
                self.disconnect(str(error))
        except (OSError, Fault) as error:
            self.disconnect(str(error))
        finally:
            for fd in [] if bug("fd-leak") else self.arrived:
                os.close(fd)

    def receive(self, n: int) -> bytes:
        assert self.conn
        data = b""
        while len(data) < n:
            part, ancillary, flags, _ = self.conn.recvmsg(n - len(data), socket.CMSG_LEN(16 * 4))
            for _, _, fds in ancillary:
                self.arrived += array.array("i", fds)
            if not part or flags & socket.MSG_CTRUNC:
                raise ConnectionError("end of file" if not part else "too many file descriptors")
            data += part
            if len(data) < n and bug("pieces-refused"):
                raise ConnectionError("half a message")
        return data

    def answer(self, request: int, payload: bytes) -> None:
        assert self.conn
        with DOOR if bug("answers-block") else contextlib.nullcontext(), contextlib.suppress(OSError):
            self.conn.sendall(struct.pack("<III", request, 5, len(payload)) + payload)

    def disconnect(self, why: str) -> None:
        if not self.conn:
            return
        self.log(f"disconnected: {why}")
        with DOOR:
            self.conn.close()
            self.conn = None
            if not bug("fd-leak"):
                for fd in [r.fd for r in self.table.regions] + [fd for q in self.queues for fd in q.fds.values()]:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            self.forget()
        if bug("memory-leak"):
            HOARD.append(b"x" * (1 << 16))
        if bug("one-for-all") and why != "end of file":
            for port in PORTS:
                port.disconnect("end of file")
        if bug("port-dies") and why != "end of file":
            self.listener.close()
            sys.exit()

    # Requests

    def unknown(self, _: bytes) -> None:
        raise Illegal("unknown request")

    def nothing(self, _: bytes) -> None:
        pass

    def get_features(self, _: bytes) -> bytes:
        return struct.pack("<Q", OFFERED)

    def get_protocol_features(self, _: bytes) -> bytes:
        return struct.pack("<Q", PROTOCOL_OFFERED)

    def get_one(self, _: bytes) -> bytes:
        return struct.pack("<Q", 1)

    def get_slots(self, _: bytes) -> bytes:
        return struct.pack("<Q", MAX_SLOTS)

    def set_features(self, payload: bytes) -> None:
        (features,) = struct.unpack("<Q", payload)
        if features & ~OFFERED and not bug("features-unchecked"):
            raise Illegal(f"features {features:#x} were not offered")
        self.features = features

    def set_protocol_features(self, payload: bytes) -> None:
        (features,) = struct.unpack("<Q", payload)
        if features & ~PROTOCOL_OFFERED and not bug("features-unchecked"):
            raise Illegal(f"protocol features {features:#x} were not offered")
        self.protocol = features

    def region(self, entry: bytes, fd: int) -> Region:
        guest, n, user, offset = struct.unpack("<QQQQ", entry)
        if (not n and not bug("no-fstat")) or (max(guest, user, offset) + n > 2**64 and not bug("overlap")):
            raise Illegal("a region wraps")
        if bug("absent-fd-trusted") or bug("any-file-is-memory"):
            return Region(guest, n, user, offset, fd)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            raise Illegal("a region cannot be written")
        if (offset + n) % (2**64 if bug("overlap") else 2**65) > os.fstat(fd).st_size and not bug("no-fstat"):
            raise Illegal("a region is larger than its file")
        if bug("eager-mapping"):
            os.posix_fallocate(fd, offset, min(n, 128 << 20))
        if bug("mapping-leak"):
            MAPPED.append(mmap.mmap(fd, 0))
        if bug("low-addresses-only") and guest + n >= 2**63:
            raise Illegal("a region wraps")
        return Region(guest, n, user, offset & ~0xFFF if bug("page-aligned-offsets") else offset, fd)

    def set_mem_table(self, payload: bytes) -> None:
        n = struct.unpack_from("<I", payload)[0] if len(payload) >= 8 else 0
        while len(self.arrived) < min(n, 8) and bug("absent-fd-trusted"):
            self.arrived.append(os.dup(0))
        if bug("table-length-trusted"):
            payload, n = payload.ljust(8 + 32 * min(n, 64), b"\0"), min(n, len(self.arrived))
        elif len(payload) != 8 + 32 * n or n != len(self.arrived) or n > MAX_SLOTS:
            raise Illegal("a memory table of another length")
        self.use([self.region(payload[8 + 32 * i : 40 + 32 * i], fd) for i, fd in enumerate(self.arrived)], [])

    def use(self, regions: list[Region], keep: list[Region]) -> None:
        """Put another table into effect; close what it no longer holds."""
        both = sorted([*keep, *regions])
        if any(a.guest + a.size > b.guest for a, b in itertools.pairwise(both)) and not bug("overlap"):
            raise Illegal("regions overlap")
        old, self.table, self.arrived = self.table, Table(both), []
        for queue in self.queues:
            if queue.live and not bug("stale-memory"):
                try:
                    queue.translate()
                except Illegal as error:
                    self.broken(queue, str(error))
                if bug("table-change-forgets-rings"):
                    queue.ring.skip_all()
        for region in old.regions:
            if region not in keep and not bug("stale-memory") and not bug("fd-leak"):
                os.close(region.fd)

    def add_mem_reg(self, payload: bytes) -> None:
        if len(self.arrived) != 1:
            raise Illegal("a region without a file")
        if len(self.table.regions) >= MAX_SLOTS and not bug("slots-unchecked"):
            raise Illegal("no slot left")
        self.use([self.region(payload[8:], self.arrived[0])], self.table.regions)

    def rem_mem_reg(self, payload: bytes) -> None:
        gone = [r for r in self.table.regions if r[:3] == struct.unpack_from("<QQQ", payload, 8)]
        if not gone and bug("absent-region-crash"):
            die("no such region")
        if bug("removed-region-stays"):
            return
        if not gone:
            raise Illegal("no such region")
        for fd in self.arrived:
            os.close(fd)
        self.use([], [r for r in self.table.regions if r not in gone])

    def queue(self, index: int) -> Queue:
        if index >= len(self.queues):
            if bug("index-unchecked"):
                die("vring index")
            raise Illegal(f"there is no ring {index}")
        return self.queues[index]

    def set_vring_num(self, payload: bytes) -> None:
        index, size = struct.unpack("<II", payload)
        queue = self.queue(index)
        if queue.live and not bug("change-while-running"):
            raise Illegal("the ring runs")
        queue.size = size
        if queue.live:
            queue.ring.size = size

    def set_vring_base(self, payload: bytes) -> None:
        index, base = struct.unpack("<II", payload)
        queue = self.queue(index)
        if queue.live and not bug("change-while-running"):
            raise Illegal("the ring runs")
        if base > 0xFFFF and not queue.packed:
            if not bug("ring-values-unchecked"):
                raise Illegal(f"base {base}")
            base &= 0xFFFF
        queue.base = base
        if queue.live:
            queue.ring = FORMATS[queue.packed](queue, queue.areas())

    def set_vring_addr(self, payload: bytes) -> None:
        index, _, desc, used, avail, _ = struct.unpack("<IIQQQQ", payload)
        queue = self.queue(index)
        queue.user = (desc, used, avail)
        if queue.live:
            try:
                queue.translate()
            except Illegal:
                if bug("change-while-running"):
                    die("ring addresses")
                raise

    def get_vring_base(self, payload: bytes) -> bytes:
        index, _ = struct.unpack("<II", payload)
        queue = self.queue(index)
        queue.stop()
        unused = FRESH if queue.packed else 0
        return struct.pack("<II", index, unused if queue.base is None else queue.base)

    def ring_fd(self, kind: str, payload: bytes) -> Queue:
        (value,) = struct.unpack("<Q", payload)
        queue = self.queue(value & 0xFF)
        if not self.arrived and not value & 0x100 and bug("absent-fd-trusted"):
            self.arrived.append(os.dup(0))
        if value >> 9 or bool(value & 0x100) == bool(self.arrived):
            raise Illegal("a file descriptor announced and not sent, or sent and not announced")
        if queue.fds[kind] >= 0:
            os.close(queue.fds[kind])
        queue.fds[kind] = self.arrived.pop() if self.arrived else -1
        return queue

    def set_vring_kick(self, payload: bytes) -> None:
        queue = self.ring_fd("kick", payload)
        if queue.fds["kick"] >= 0 and bug("kick-read-blocks") and os.get_blocking(queue.fds["kick"]):
            os.read(queue.fds["kick"], 8)
        if not queue.live:
            queue.start()
            queue.enabled |= not self.features & PROTOCOL

    def set_vring_call(self, payload: bytes) -> None:
        self.ring_fd("call", payload)

    def set_vring_err(self, payload: bytes) -> None:
        self.ring_fd("err", payload)

    def set_vring_enable(self, payload: bytes) -> None:
        index, on = struct.unpack("<II", payload)
        self.queue(index).enabled = bool(on)


# Request: method, payload bytes (None: it looks itself), most file descriptors.
HANDLERS: dict[int, tuple[str, int | None, int]] = {
    1: ("get_features", 0, 0), 2: ("set_features", 8, 0), 3: ("nothing", 0, 0), 4: ("nothing", 0, 0),
    5: ("set_mem_table", None, 8), 8: ("set_vring_num", 8, 0), 9: ("set_vring_addr", 40, 0),
    10: ("set_vring_base", 8, 0), 11: ("get_vring_base", 8, 0), 12: ("set_vring_kick", 8, 1),
    13: ("set_vring_call", 8, 1), 14: ("set_vring_err", 8, 1), 15: ("get_protocol_features", 0, 0),
    16: ("set_protocol_features", 8, 0), 17: ("get_one", 0, 0), 18: ("set_vring_enable", 8, 0),
    36: ("get_slots", 0, 0), 37: ("add_mem_reg", 40, 1), 38: ("rem_mem_reg", 40, 1),
}  # fmt: skip
DOOR_MESSAGES = (5, 11, 12, 13, 18)
DOOR = Door()
PORTS: list[Port] = []
MAPPED: list[mmap.mmap] = []
HOARD: list[bytes] = []
rounds = 0


def poll() -> None:
    """The worker: every port in turn, for ever."""
    global rounds
    while True:
        with DOOR:
            worked = [port.forward() for port in PORTS]
        rounds += 1
        # Python's locks are not fair: without a rest the other threads would never get this one.
        time.sleep(0.00002 if any(worked) else 0.0002)


def counters(ports: Iterable[Port]) -> dict[str, dict[str, Any]]:
    """As `fastvhost stats --json` has them."""
    return {
        port.name: {
            "rx_frames": port.frames["rx"],
            "tx_frames": port.frames["tx"],
            "rx_dropped": dict(port.drops),
            "tx_dropped": dict(port.refused),
            "cut": 0,
            "segmented": 0,
            "copies": 0,
        }
        for port in ports
    }


def answer_statistics(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(16)
    while True:
        with listener.accept()[0] as client, contextlib.suppress(OSError):
            client.settimeout(30.0)  # they ask at once, unless they have no CPU
            client.recv(4096)
            for port in PORTS if bug("stats-wait") else []:
                with port.lock:
                    pass
            result = {"ports": counters(PORTS), "workers": {"worker0": {"rounds": rounds, "waiting": 0}}}
            client.sendall(json.dumps({"ok": True, "result": result}).encode() + b"\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bug", action="append", default=[], choices=sorted(bugs.BUGS))
    parser.add_argument("verb", choices=["fwd"])
    parser.add_argument("--forward", choices=["patch"], required=True)
    parser.add_argument("--port", action="append", required=True)
    parser.add_argument("--control", required=True)
    args = parser.parse_args(arguments)
    bugs.chosen.update(args.bug)
    PORTS.extend(Port(port.partition(",")[0]) for port in args.port)
    for left, right in zip(PORTS[::2], PORTS[1::2], strict=True):
        left.peer, right.peer = right, left
    for port in PORTS:
        port.listen()
        threading.Thread(target=port.serve, daemon=True).start()
    threading.Thread(target=answer_statistics, args=(args.control,), daemon=True).start()
    sys.setswitchinterval(0.0005)
    poll()


if __name__ == "__main__":
    main()
