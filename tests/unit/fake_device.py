"""A device in plain Python for the built-in driver's tests: slow, literal, and able to go wrong on purpose.

It sees two GuestDevices only as their memory and their ring addresses, as a device does. Virtio 1.2, sections 2.7, 2.8.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from fastvhost.driver.device import GuestDevice
from fastvhost.driver.ram import GuestRam

NEXT, WRITE, INDIRECT = 1, 2, 4
NO_NOTIFY = 1
AVAIL, USED = 1 << 7, 1 << 15
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = 0, 1, 2

Buffer = tuple[int, int, int]
"""Where in the guest's memory, how many bytes, flags."""


class FakeRing:
    """The device side of one queue, of either format."""

    def __init__(self, device: GuestDevice, index: int, size: int) -> None:
        self.ram: GuestRam = device.ram
        self.size = size
        self.desc, self.avail, self.used = (a - self.ram.user_addr for a in device.ring_addresses(index))
        self.next_avail = self.next_used = 0

    def words(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.ram.read(offset, struct.calcsize(layout)))

    def put(self, layout: str, offset: int, *values: int) -> None:
        self.ram.write(offset, struct.pack(layout, *values))

    def take(self) -> list[tuple[int, list[Buffer]]]:
        """All chains made available since the last call: head or buffer id, and buffers."""
        raise NotImplementedError

    def use(self, head: int, n_bytes: int) -> None:
        """Stage a used entry; publish() shows it."""
        raise NotImplementedError

    def use_up_to(self, heads: list[int]) -> None:
        """In order: one entry for the whole batch, which names its last chain. Sections 2.7.9 and 2.8.8."""
        raise NotImplementedError

    def publish(self) -> None:
        raise NotImplementedError

    def ask_for_kicks(self, wanted: bool) -> None:
        raise NotImplementedError

    def ask_for_kick_at(self, index: int) -> None:
        """With EVENT_IDX: ask for a kick once this entry, counted from the ring's start, is made available."""
        raise NotImplementedError

    @property
    def driver_wants_notifications(self) -> bool:
        raise NotImplementedError


class SplitFakeRing(FakeRing):
    """Section 2.7."""

    @property
    def driver_wants_notifications(self) -> bool:
        return self.words("<H", self.avail)[0] == 0

    @property
    def avail_idx(self) -> int:
        return self.words("<H", self.avail + 2)[0]

    def take(self) -> list[tuple[int, list[Buffer]]]:
        chains = []
        while self.next_avail != self.avail_idx:
            (head,) = self.words("<H", self.avail + 4 + 2 * (self.next_avail % self.size))
            chains.append((head, self.buffers(head)))
            self.next_avail = (self.next_avail + 1) & 0xFFFF
        return chains

    def buffers(self, head: int) -> list[Buffer]:
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
        self.put("<II", self.used + 4 + 8 * (self.next_used % self.size), head, n_bytes)
        self.next_used = (self.next_used + 1) & 0xFFFF

    def use_up_to(self, heads: list[int]) -> None:
        self.put("<II", self.used + 4 + 8 * (self.next_used % self.size), heads[-1], 0)
        self.next_used = (self.next_used + len(heads)) & 0xFFFF

    def publish(self) -> None:
        self.put("<H", self.used + 2, self.next_used)

    def ask_for_kicks(self, wanted: bool) -> None:
        self.put("<H", self.used, 0 if wanted else NO_NOTIFY)

    def ask_for_kick_at(self, index: int) -> None:
        self.put("<H", self.used + 4 + 8 * self.size, index)


class PackedFakeRing(FakeRing):
    """Section 2.8."""

    def __init__(self, device: GuestDevice, index: int, size: int) -> None:
        super().__init__(device, index, size)
        self.avail_wrap = self.used_wrap = 1
        self.lengths: dict[int, int] = {}
        self.staged: list[tuple[int, int, int, int]] = []

    @property
    def driver_wants_notifications(self) -> bool:
        return self.words("<HH", self.avail)[1] != EVENT_DISABLE

    def take(self) -> list[tuple[int, list[Buffer]]]:
        chains = []
        while (chain := self.take_one()) is not None:
            chains.append(chain)
        return chains

    def take_one(self) -> tuple[int, list[Buffer]] | None:
        buffers: list[Buffer] = []
        n_descriptors = 0
        while True:
            addr, n_bytes, buffer_id, flags = self.words("<QIHH", self.desc + 16 * self.next_avail)
            if (bool(flags & AVAIL), bool(flags & USED)) != (bool(self.avail_wrap), not self.avail_wrap):
                assert not buffers, "the rest of a chain is not available"
                return None
            n_descriptors += 1
            self.next_avail += 1
            if self.next_avail == self.size:
                self.next_avail, self.avail_wrap = 0, self.avail_wrap ^ 1
            if flags & INDIRECT:
                for at in range(0, n_bytes, 16):
                    addr_in, n_in, _, flags_in = self.words("<QIHH", addr - self.ram.guest_addr + at)
                    buffers.append((addr_in - self.ram.guest_addr, n_in, flags_in))
            else:
                buffers.append((addr - self.ram.guest_addr, n_bytes, flags & WRITE))
            if not flags & NEXT:
                self.lengths[buffer_id] = n_descriptors
                return buffer_id, buffers

    def use(self, head: int, n_bytes: int) -> None:
        self.staged.append((self.next_used, head, n_bytes, AVAIL | USED if self.used_wrap else 0))
        self.next_used += self.lengths.get(head, 1)
        if self.next_used >= self.size:
            self.next_used, self.used_wrap = self.next_used - self.size, self.used_wrap ^ 1

    def use_up_to(self, heads: list[int]) -> None:
        self.staged.append((self.next_used, heads[-1], 0, AVAIL | USED if self.used_wrap else 0))
        self.next_used += sum(self.lengths[head] for head in heads)
        if self.next_used >= self.size:
            self.next_used, self.used_wrap = self.next_used - self.size, self.used_wrap ^ 1

    def publish(self) -> None:
        for at, head, n_bytes, flags in reversed(self.staged):
            self.put("<IHH", self.desc + 16 * at + 8, n_bytes & 0xFFFFFFFF, head & 0xFFFF, flags)
        self.staged.clear()

    def ask_for_kicks(self, wanted: bool) -> None:
        self.put("<HH", self.used, 0, EVENT_ENABLE if wanted else EVENT_DISABLE)

    def ask_for_kick_at(self, index: int) -> None:
        wrap = 1 - index // self.size % 2
        self.put("<HH", self.used, index % self.size | wrap << 15, EVENT_DESC)


def fake_ring(device: GuestDevice, index: int, size: int) -> FakeRing:
    return (PackedFakeRing if device.packed else SplitFakeRing)(device, index, size)


class FakeWire:
    """Takes every frame from one guest and puts it into the other's buffers, header and all."""

    def __init__(
        self, sender: GuestDevice, receiver: GuestDevice, size: int, *, mergeable: bool = False, queue: int = 0,
        to_queue: int = 0,
    ) -> None:  # fmt: skip
        self.source, self.target = fake_ring(sender, 2 * queue + 1, size), fake_ring(receiver, 2 * to_queue, size)
        self.mergeable = mergeable
        self.room: list[tuple[int, list[Buffer]]] = []
        self.tamper: Callable[[list[bytes]], list[bytes]] = lambda frames: frames
        self.chain_shapes: set[int] = set()
        self.shuffle = False
        self.in_batches = False
        self._chance = random.Random(1)

    def carry(self) -> int:
        """One round. Returns the frames delivered."""
        frames, heads = [], []
        for head, buffers in self.source.take():
            assert not any(flags & WRITE for _, _, flags in buffers)
            self.chain_shapes.add(len(buffers))
            frames.append(b"".join(self.source.ram.read(offset, n) for offset, n, _ in buffers))
            heads.append(head)
        self.room += self.target.take()
        if self.shuffle:
            self._chance.shuffle(heads)
            self._chance.shuffle(self.room)
        if self.in_batches and heads:
            self.source.use_up_to(heads)
        else:
            for head in heads:
                self.source.use(head, 0)
        self.source.publish()
        frames = self.tamper(frames)
        for frame in frames:
            self.put_frame(frame)
        self.target.publish()
        return len(frames)

    def put_frame(self, frame: bytes) -> None:
        left = frame
        used: list[tuple[int, list[Buffer], bytes]] = []
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
