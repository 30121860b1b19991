"""Checks whether a ring can start, and the error that says why not. Virtio 1.2, sections 2.7, 2.8."""

from libc.stdint cimport uint32_t

from fastvhost.abi.virtio_ring cimport VIRTQ_MAX_SIZE
from fastvhost.dataplane.virtio_change cimport MISALIGNED, OUTSIDE_MEMORY, Placement


class RingRefusedError(ValueError):
    """A queue cannot start as configured. The text names the ring, the reason and the remedy."""


def need_size_and_base(index: int, size: int, base: int, packed: bool) -> None:
    if packed:
        if not 1 <= size <= VIRTQ_MAX_SIZE:
            raise RingRefusedError(f"ring {index}: size {size}; a packed ring has 1 to {VIRTQ_MAX_SIZE} entries")
        if not 0 <= base < 2**32 or base & 0x7FFF >= size or base >> 16 & 0x7FFF >= size:
            raise RingRefusedError(f"ring {index}: base {base:#x} names a descriptor beyond the ring's {size}")
        return
    if not (1 <= size <= VIRTQ_MAX_SIZE and size & (size - 1) == 0):
        raise RingRefusedError(f"ring {index}: size {size} is no power of two from 1 to {VIRTQ_MAX_SIZE}")
    if not 0 <= base <= 0xFFFF:
        raise RingRefusedError(f"ring {index}: base {base} is no available index; 0 to 65535 are")


cdef int need_placed(uint32_t index, Placement placement, bint packed) except -1:
    """Raises RingRefusedError unless the ring lies in guest memory, aligned."""
    if placement == OUTSIDE_MEMORY:
        raise RingRefusedError(
            f"ring {index} lies in no shared memory region; "
            "start QEMU with -object memory-backend-memfd,id=m0,size=1G,share=on -machine memory-backend=m0"
        )
    if placement == MISALIGNED:
        rule = "16, 4 and 4 (virtio 1.2, 2.8.10)" if packed else "16, 2 and 4 (virtio 1.2, 2.7)"
        raise RingRefusedError(
            f"ring {index} is misaligned: descriptors, driver area and device area stand at multiples of {rule}; "
            "correct its addresses in the guest's driver or in the front-end"
        )
    return 0
