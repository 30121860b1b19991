"""A split-ring device on paper for the built-in driver's tests: slow, literal, and able to go wrong on purpose.

It sees two GuestDevices only as their memory and their ring addresses, as a device does. Virtio 1.2, section 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from fastvhost.driver.device import GuestDevice
from fastvhost.driver.ram import GuestRam

NEXT, WRITE, INDIRECT = 1, 2, 4
NO_NOTIFY = 1


class PaperRing:
    """The device side of one queue."""

    def __init__(self, device: GuestDevice, index: int, size: int) -> None:
        self.ram: GuestRam = device.ram
        self.size = size
        self.desc, self.avail, self.used = (a - self.ram.user_addr for a in device.ring_addresses(index))
        self.next_avail = self.next_used = 0

    def words(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.ram.read(offset, struct.calcsize(layout)))

    def put(self, layout: str, offset: int, *values: int) -> None:
        self.ram.write(offset, struct.pack(layout, *values))

    @property
    def avail_flags(self) -> int:
        return self.words("<H", self.avail)[0]

    @property
    def avail_idx(self) -> int:
        return self.words("<H", self.avail + 2)[0]

    def take(self) -> list[tuple[int, list[tuple[int, int, int]]]]:
        """Every chain made available since: its head, and its buffers as (offset in memory, bytes, flags)."""
        chains = []
        while self.next_avail != self.avail_idx:
            (head,) = self.words("<H", self.avail + 4 + 2 * (self.next_avail % self.size))
            chains.append((head, self.buffers(head)))
            self.next_avail = (self.next_avail + 1) & 0xFFFF
        return chains

    def buffers(self, head: int) -> list[tuple[int, int, int]]:
        table, at = self.desc, head
        buffers = []
        while True:
            addr, n_bytes, flags, following = self.words("<QIHH", table + 16 * at)
            if flags & INDIRECT:
                table, at = addr - self.ram.guest_addr, 0
                continue
            buffers.append((addr - self.ram.guest_addr, n_bytes, flags))
            if not flags & NEXT:
                return buffers
            at = following

    def use(self, head: int, n_bytes: int) -> None:
        """Stage a used entry; publish() shows it."""
        self.put("<II", self.used + 4 + 8 * (self.next_used % self.size), head, n_bytes)
        self.next_used = (self.next_used + 1) & 0xFFFF

    def publish(self) -> None:
        self.put("<H", self.used + 2, self.next_used)

    def ask_for_kicks(self, wanted: bool) -> None:
        """Without EVENT_IDX. Section 2.7.10."""
        self.put("<H", self.used, 0 if wanted else NO_NOTIFY)

    def ask_for_kick_at(self, index: int) -> None:
        """With EVENT_IDX: once this entry is made available."""
        self.put("<H", self.used + 4 + 8 * self.size, index)


class PaperWire:
    """Takes every frame from one guest and puts it into the other's buffers, header and all."""

    def __init__(self, sender: GuestDevice, receiver: GuestDevice, size: int, *, mergeable: bool = False) -> None:
        self.source, self.target = PaperRing(sender, 1, size), PaperRing(receiver, 0, size)
        self.mergeable = mergeable
        self.room: list[tuple[int, list[tuple[int, int, int]]]] = []
        self.tamper: Callable[[list[bytes]], list[bytes]] = lambda frames: frames
        self.chain_shapes: set[int] = set()

    def carry(self) -> int:
        """One round. Returns the frames delivered."""
        frames = []
        for head, buffers in self.source.take():
            assert not any(flags & WRITE for _, _, flags in buffers)
            self.chain_shapes.add(len(buffers))
            frames.append(b"".join(self.source.ram.read(offset, n) for offset, n, _ in buffers))
            self.source.use(head, 0)
        self.source.publish()
        frames = self.tamper(frames)
        self.room += self.target.take()
        for frame in frames:
            self.put_frame(frame)
        self.target.publish()
        return len(frames)

    def put_frame(self, frame: bytes) -> None:
        left = frame
        used: list[tuple[int, list[tuple[int, int, int]], bytes]] = []
        while left or not used:
            head, buffers = self.room.pop(0)
            assert all(flags & WRITE for _, _, flags in buffers)
            room = sum(n for _, n, _ in buffers)
            used.append((head, buffers, left[:room]))
            left = left[room:]
        if self.mergeable:
            head, buffers, part = used[0]
            used[0] = head, buffers, part[:10] + struct.pack("<H", len(used)) + part[12:]
        for head, buffers, part in used:
            self.target.use(head, len(part))
            for offset, n, _ in buffers:
                self.target.ram.write(offset, part[:n])
                part = part[n:]
