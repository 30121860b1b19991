"""A guest: its memory, the driver's side of its virtqueues, and a virtio-net driver. Virtio 1.2, sections 2.7 and 5.1.

Written from the specification for tests; imports nothing of fastvhost. Simple rather than fast, and able to break every
rule: `SplitQueue.write_descriptor` and `make_available` write any values.
A queue shows `size`, `descriptor_area`, `driver_area`, `device_area` and `base` to the front-end, and `chain`,
`make_available` and `take_used` to the driver: another ring format needs these and no more.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.guests.waits import MAX_WAIT

# A word that the device may read at any moment is packed first and then stored by a slice, which is one memcpy and so,
# for these sizes, one store. struct.pack_into would not do: it zeroes the place before it writes. Loads in the native
# format ("H", not "<H", which goes byte by byte) are one load.
assert sys.byteorder == "little", "virtio fields are little-endian and so must be the host"
U16 = struct.Struct("H")
DESCRIPTOR = struct.Struct("QIHH")
USED_ELEMENT = struct.Struct("II")

DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1

NET_HEADER = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
NET_HDR_F_NEEDS_CSUM = 1
NET_HDR_F_DATA_VALID = 2

# Ring indices start just below the wrap, so that every test wraps.
NEAR_WRAP = 65532


class Timeout(AssertionError):
    """The device did not answer in time."""


class Region:
    """One region of guest memory: a range of guest addresses over a range of a shared file.

    By default a new memfd of just the region's size. `file_bytes` and `mmap_offset` make the file larger than the
    region, `fd` is a file that another region uses, too, `user_addr` is the address that the front-end claims to have
    mapped it at.
    """

    def __init__(
        self,
        guest_addr: int,
        bytes: int,
        *,
        user_addr: int | None = None,
        mmap_offset: int = 0,
        file_bytes: int | None = None,
        fd: int | None = None,
        name: str = "guest",
        hugepages: bool = False,
    ) -> None:
        self.guest_addr = guest_addr
        self.bytes = bytes
        self.user_addr = guest_addr + 0x7E00_0000_0000 if user_addr is None else user_addr
        self.mmap_offset = mmap_offset
        if fd is None:
            self.fd = os.memfd_create(name, os.MFD_CLOEXEC | (os.MFD_HUGETLB if hugepages else 0))
            os.ftruncate(self.fd, mmap_offset + bytes if file_bytes is None else file_bytes)
        else:
            self.fd = os.dup(fd)
        self.file = mmap.mmap(self.fd, 0)
        self.inode = os.fstat(self.fd).st_ino
        self.file_bytes = len(self.file)

    def __contains__(self, guest_addr: int) -> bool:
        return self.guest_addr <= guest_addr < self.guest_addr + self.bytes

    def at(self, guest_addr: int) -> int:
        """The offset in the file of a guest address."""
        return guest_addr - self.guest_addr + self.mmap_offset

    def truncate(self, file_bytes: int) -> None:
        """Make the file shorter than the region says it is. Touching the rest is SIGBUS, for us as for the device."""
        os.ftruncate(self.fd, file_bytes)
        self.file_bytes = file_bytes

    def close(self) -> None:
        if not self.file.closed:
            self.file.close()
            os.close(self.fd)


class Memory:
    """The guest's memory: regions, and an allocator that never reuses memory."""

    def __init__(self, regions: Iterable[Region]) -> None:
        self.regions = list(regions)
        self._next = {id(region): region.guest_addr for region in self.regions}

    @classmethod
    def of(cls, bytes: int, guest_addr: int = 0x10000, *, name: str = "guest") -> Memory:
        """One region."""
        return cls([Region(guest_addr, bytes, name=name)])

    def region(self, guest_addr: int) -> Region:
        for region in self.regions:
            if guest_addr in region:
                return region
        raise ValueError(f"guest address {guest_addr:#x} lies in no region")

    def user_addr(self, guest_addr: int) -> int:
        """The same byte as the front-end's virtual address, as SET_VRING_ADDR wants it."""
        region = self.region(guest_addr)
        return guest_addr - region.guest_addr + region.user_addr

    def take(self, bytes: int, *, align: int = 16, region: int = 0) -> int:
        """Reserve bytes and return their guest address."""
        owner = self.regions[region]
        start = -(-self._next[id(owner)] // align) * align
        if start + bytes > owner.guest_addr + owner.bytes:
            raise MemoryError(f"region {region} has no {bytes} bytes left")
        self._next[id(owner)] = start + bytes
        return start

    def read(self, guest_addr: int, bytes: int) -> bytes:
        """Read a range, over adjacent regions if need be."""
        parts = []
        while bytes:
            region = self.region(guest_addr)
            n = min(bytes, region.guest_addr + region.bytes - guest_addr)
            parts.append(region.file[region.at(guest_addr) : region.at(guest_addr) + n])
            guest_addr, bytes = guest_addr + n, bytes - n
        return b"".join(parts)

    def write(self, guest_addr: int, data: bytes) -> None:
        """Write a range, over adjacent regions if need be."""
        while data:
            region = self.region(guest_addr)
            n = min(len(data), region.guest_addr + region.bytes - guest_addr)
            self.put_at(region, region.at(guest_addr), data[:n])
            guest_addr, data = guest_addr + n, data[n:]

    def pack(self, layout: struct.Struct, guest_addr: int, *fields: int) -> None:
        region = self.region(guest_addr)
        self.put_at(region, region.at(guest_addr), layout.pack(*fields))

    def put_at(self, region: Region, at: int, data: bytes) -> None:
        """Every store of the driver's: bytes at an offset of a region's file."""
        region.file[at : at + len(data)] = data

    def unpack(self, layout: struct.Struct, guest_addr: int) -> tuple[int, ...]:
        region = self.region(guest_addr)
        return layout.unpack_from(region.file, region.at(guest_addr))

    def load_u16(self, guest_addr: int) -> int:
        return self.unpack(U16, guest_addr)[0]

    def store_u16(self, guest_addr: int, value: int) -> None:
        self.pack(U16, guest_addr, value & 0xFFFF)

    def replace(self, old: Region, new: Region) -> None:
        """Put another region in the place of this one. Reserved bytes stay reserved."""
        self.regions[self.regions.index(old)] = new
        self._next[id(new)] = self._next.pop(id(old))

    def close(self) -> None:
        for region in self.regions:
            region.close()


class Piece(NamedTuple):
    """One buffer of a chain."""

    addr: int
    bytes: int
    writable: bool = False
    indirect: bool = False

    @property
    def flags(self) -> int:
        return (DESC_F_WRITE if self.writable else 0) | (DESC_F_INDIRECT if self.indirect else 0)


class Used(NamedTuple):
    """An element of the used ring."""

    head: int
    bytes: int


class SplitQueue:
    """The driver's side of one split virtqueue. Section 2.7."""

    def __init__(
        self, memory: Memory, size: int, *, start: int = NEAR_WRAP, region: int = 0, spare_descriptors: int = 0
    ) -> None:
        self.memory = memory
        self.size = size
        # Spare descriptors after the end of the table: a device reads them only where a check is missing.
        self.descriptor_area = memory.take(16 * (size + spare_descriptors), align=16, region=region)
        self.driver_area = memory.take(6 + 2 * size, align=2, region=region)
        self.device_area = memory.take(6 + 8 * size, align=4, region=region)
        self.reset(start)

    def reset(self, start: int = NEAR_WRAP) -> None:
        """As new: every descriptor free, both indices at `start`."""
        self.base = start & 0xFFFF
        self._free: deque[int] = deque(range(self.size))
        self._chains: dict[int, list[int]] = {}
        self._avail = self._used = self.base
        self.memory.write(self.driver_area, U16.pack(0) + U16.pack(self.base))
        self.memory.write(self.device_area, U16.pack(0) + U16.pack(self.base))

    # Descriptors

    def write_descriptor(self, index: int, addr: int, bytes: int, flags: int = 0, next: int = 0) -> None:
        """Any descriptor, anywhere relative to the table, with any content."""
        self.memory.pack(DESCRIPTOR, self.descriptor_area + 16 * index, addr, bytes, flags, next)

    def chain(self, pieces: Sequence[Piece]) -> int:
        """Write a chain into free descriptors and return its head. It need not be legal."""
        indices = [self._free.popleft() for _ in pieces]
        for index, piece, after in zip(indices, pieces, [*indices[1:], None], strict=True):
            linked = 0 if after is None else DESC_F_NEXT
            self.write_descriptor(index, piece.addr, piece.bytes, piece.flags | linked, after or 0)
        self._chains[indices[0]] = indices
        return indices[0]

    def indirect(self, pieces: Sequence[Piece], table: int | None = None) -> Piece:
        """Write an indirect table, into new memory or at `table`; the piece that refers to it. Section 2.7.5.3."""
        if table is None:
            table = self.memory.take(16 * len(pieces))
        self.memory.write(table, table_of(pieces))
        return Piece(table, 16 * len(pieces), indirect=True)

    @property
    def free(self) -> int:
        return len(self._free)

    # Available ring

    def make_available(self, *heads: int, kick: int = -1) -> None:
        """Offer chains by their heads, with one store of the index, and kick if there is an eventfd to write."""
        self.place(*heads)
        self.set_avail_index(self._avail + len(heads))
        if kick >= 0:
            os.eventfd_write(kick, 1)

    def place(self, *heads: int) -> None:
        """Write heads into the next entries of the available ring, without offering them."""
        for offset, head in enumerate(heads):
            slot = (self._avail + offset) % self.size
            self.memory.store_u16(self.driver_area + 4 + 2 * slot, head)

    @property
    def avail_index(self) -> int:
        """The index last stored."""
        return self._avail

    def set_avail_index(self, index: int) -> None:
        self._avail = index & 0xFFFF
        self.memory.store_u16(self.driver_area + 2, self._avail)

    def set_no_interrupt(self, on: bool) -> None:
        self.memory.store_u16(self.driver_area, AVAIL_F_NO_INTERRUPT if on else 0)

    def set_used_event(self, index: int) -> None:
        """With EVENT_IDX: notify when the used index passes this one. Section 2.7.7."""
        self.memory.store_u16(self.driver_area + 4 + 2 * self.size, index)

    # Used ring

    @property
    def used_index(self) -> int:
        return self.memory.load_u16(self.device_area + 2)

    @property
    def used_flags(self) -> int:
        return self.memory.load_u16(self.device_area)

    @property
    def avail_event(self) -> int:
        return self.memory.load_u16(self.device_area + 4 + 8 * self.size)

    def take_used(self) -> list[Used]:
        """Every used element not taken yet; the descriptors of its chain are free again."""
        taken = []
        for _ in range((self.used_index - self._used) & 0xFFFF):
            slot = self.device_area + 4 + 8 * (self._used % self.size)
            used = Used(*self.memory.unpack(USED_ELEMENT, slot))
            self._free.extend(self._chains.pop(used.head, ()))
            self._used = (self._used + 1) & 0xFFFF
            taken.append(used)
        return taken

    def wait_used(self, n: int = 1, timeout: float = MAX_WAIT) -> list[Used]:
        """Take used elements until there are `n`. Raises Timeout."""
        taken = self.take_used()
        deadline = time.monotonic() + timeout
        while len(taken) < n:
            if time.monotonic() > deadline:
                raise Timeout(f"{len(taken)} of {n} used elements after {timeout} s")
            time.sleep(0.0001)
            taken += self.take_used()
        return taken


def table_of(pieces: Sequence[Piece]) -> bytes:
    """The pieces as an indirect descriptor table."""
    last = len(pieces) - 1
    return b"".join(
        DESCRIPTOR.pack(p.addr, p.bytes, p.flags | (DESC_F_NEXT if i < last else 0), i + 1 if i < last else 0)
        for i, p in enumerate(pieces)
    )


class NetDriver:
    """A virtio-net driver over one receiveq and one transmitq. Section 5.1.6."""

    def __init__(
        self, receiveq: SplitQueue, transmitq: SplitQueue, *, header_bytes: int = 12, mergeable: bool = False
    ) -> None:
        self.memory = receiveq.memory
        self.receiveq = receiveq
        self.transmitq = transmitq
        self.header_bytes = header_bytes
        self.mergeable = mergeable
        self.receive_buffers: dict[int, list[Piece]] = {}
        self._transmit_buffers: dict[int, tuple[int, int]] = {}
        self._spare: list[tuple[int, int]] = []
        self._pending: deque[Used] = deque()
        self.received_header = b""

    # Sending

    def header(
        self, flags: int = 0, gso_type: int = 0, hdr_len: int = 0, gso_size: int = 0, start: int = 0, offset: int = 0
    ) -> bytes:
        packed = NET_HEADER.pack(flags, gso_type, hdr_len, gso_size, start, offset, 0)
        return packed[: self.header_bytes]

    def offer(self, frame: bytes, header: bytes | None = None, *, region: int = 0) -> list[Piece]:
        """Put header and frame into one buffer in new memory and return it as a chain of one piece."""
        data = (self.header() if header is None else header) + frame
        addr = self.memory.take(max(len(data), 1), region=region)
        self.memory.write(addr, data)
        return [Piece(addr, len(data))]

    def send(self, frame: bytes, header: bytes | None = None, kick: int = -1) -> int:
        """Send one frame from a buffer that is used again when the device is done with it. Returns the head."""
        head = self._prepare(frame, header)
        self.transmitq.make_available(head, kick=kick)
        return head

    def send_at_once(self, *frames: bytes) -> None:
        """The same with several frames, which become visible together."""
        self.transmitq.make_available(*[self._prepare(frame) for frame in frames])

    def _prepare(self, frame: bytes, header: bytes | None = None) -> int:
        self.reclaim()
        data = (self.header() if header is None else header) + frame
        room, addr = self._spare.pop() if self._spare and self._spare[-1][0] >= len(data) else (0, 0)
        if not room:
            room = max(2048, len(data))
            addr = self.memory.take(room)
        self.memory.write(addr, data)
        head = self.transmitq.chain([Piece(addr, len(data))])
        self._transmit_buffers[head] = (room, addr)
        return head

    def reclaim(self) -> int:
        """Take back what the device has transmitted. Returns the number of chains."""
        used = self.transmitq.take_used()
        for element in used:
            if element.head in self._transmit_buffers:
                self._spare.append(self._transmit_buffers.pop(element.head))
        return len(used)

    def wait_sent(self, timeout: float = MAX_WAIT) -> None:
        """Wait until everything sent came back. Raises Timeout."""
        deadline = time.monotonic() + timeout
        while self._transmit_buffers:
            if not self.reclaim():
                if time.monotonic() > deadline:
                    raise Timeout(f"{len(self._transmit_buffers)} chains not returned after {timeout} s")
                time.sleep(0.0001)

    # Receiving

    def post(self, n: int = 1, bytes: int = 2048, kick: int = -1) -> None:
        """Give the device n receive buffers in new memory."""
        for _ in range(n):
            self.post_chain([Piece(self.memory.take(bytes), bytes, writable=True)], kick=kick)

    def post_chain(self, pieces: Sequence[Piece], kick: int = -1) -> int:
        """Give the device one receive chain of writable pieces. Returns the head."""
        head = self.receiveq.chain(pieces)
        self.receive_buffers[head] = list(pieces)
        self.receiveq.make_available(head, kick=kick)
        return head

    def receive(self, timeout: float = MAX_WAIT, *, repost: bool = True) -> bytes:
        """The next frame, without its header. Raises Timeout."""
        data = self._next_buffer(timeout, repost)
        buffers = NET_HEADER.unpack(data[:12])[6] if self.mergeable else 1
        for _ in range(buffers - 1):
            data += self._next_buffer(timeout, repost)
        self.received_header = data[: self.header_bytes]
        return data[self.header_bytes :]

    def receive_if_there(self) -> bytes:
        """The next frame if it is there, else nothing."""
        try:
            return self.receive(0.0)
        except Timeout:
            return b""

    def receive_all(self, timeout: float = 0.0) -> list[bytes]:
        """Every frame that is there, or arrives within the timeout after the one before."""
        frames = []
        while True:
            try:
                frames.append(self.receive(timeout))
            except Timeout:
                return frames

    def _next_buffer(self, timeout: float, repost: bool) -> bytes:
        if not self._pending:
            self._pending.extend(self.receiveq.wait_used(1, timeout))
        used = self._pending.popleft()
        pieces = self.receive_buffers.pop(used.head)
        data = b"".join(self.memory.read(p.addr, p.bytes) for p in pieces)
        if used.bytes > len(data):
            raise AssertionError(f"the device says it wrote {used.bytes} bytes into a buffer of {len(data)}")
        if repost:
            self.post_chain(pieces)
        return data[: used.bytes]
