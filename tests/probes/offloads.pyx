"""What ports towards this host make of frames that its stack left unfinished, one frame at a time."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc

from fastvhost.dataplane.frame cimport BURST, FrameBurst, Segment
from fastvhost.dataplane.ports.segmentation cimport (
    MOST_HEADER_BYTES,
    HostHeader,
    Super,
    begin_super,
    complete_checksum,
    cut_super,
)

cdef extern from "fastvhost/dataplane/ports/unfinished.h" nogil:
    bint finish_checksum(uint8_t *frame, uint32_t bytes)


def cut(bytes frame, int gso_type, int gso_bytes, int csum_start, int csum_offset) -> list[bytes]:
    cdef HostHeader header
    cdef Super super
    cdef FrameBurst *burst = <FrameBurst *>calloc(1, sizeof(FrameBurst))
    cdef uint8_t *arena = <uint8_t *>malloc(BURST * MOST_HEADER_BYTES)
    cdef Segment *segments = <Segment *>malloc(2 * BURST * sizeof(Segment))
    cdef uint32_t i, j, n
    copy = bytearray(frame)
    cdef uint8_t *data = copy
    found = []
    try:
        if burst == NULL or arena == NULL or segments == NULL:
            raise MemoryError
        burst.segments = segments
        header.flags, header.header_bytes = 1, 0
        header.gso_type, header.gso_bytes = <uint8_t>gso_type, <uint16_t>gso_bytes
        header.csum_start, header.csum_offset = <uint16_t>csum_start, <uint16_t>csum_offset
        if gso_type == 0:
            return [bytes(copy)] if complete_checksum(data, <uint32_t>len(copy), csum_start, csum_offset) else []
        if not begin_super(&super, data, <uint32_t>len(copy), &header):
            return []
        while super.frame != NULL:
            n = cut_super(&super, burst, 0, arena)
            for i in range(n):
                piece = b""
                for j in range(burst.frames[i].n_segments):
                    piece += segments[2 * i + j].data[:segments[2 * i + j].bytes]
                found.append(piece)
    finally:
        free(burst)
        free(arena)
        free(segments)
    return found


def finish(bytes frame) -> bytes:
    copy = bytearray(frame)
    cdef uint8_t *data = copy
    finish_checksum(data, <uint32_t>len(copy))
    return bytes(copy)
