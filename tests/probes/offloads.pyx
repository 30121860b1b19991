"""Super-frames and unfinished checksums as an egress gets them that takes none."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastvhost.abi.virtio_net cimport NetHeader
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, Delivery, FrameBurst, Head, Segment, begin_heads, delivery_of
from fastvhost.dataplane.offload.cut cimport CUT_NEEDS, Cutter, Super, deliver_cut, discard_cutter, make_cutter
from fastvhost.dataplane.offload.finish cimport copy_finished
from fastvhost.dataplane.offload.header cimport check_head
from fastvhost.dataplane.offload.unfinished cimport look_for_unfinished
from fastvhost.dataplane.port cimport Port, PortOps

EVERYTHING = 0xFFFF


cdef uint32_t collect(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept with gil:
    cdef Collector collector = <Collector>port.state
    cdef uint32_t i, taken = min(delivery.n, collector.room)
    cdef bytearray frame
    cdef uint8_t *data
    for i in range(taken):
        frame = bytearray(delivery.frames[i].bytes)
        data = frame
        copy_finished(data, delivery, &delivery.frames[i])
        collector.frames.append(bytes(frame))
    port.tx[pair].frames += taken
    return taken


cdef class Collector(Port):
    """An egress that takes `room` frames a call."""

    cdef public list frames
    cdef uint32_t room

    def __init__(self, uint32_t room=64, uint32_t accepts=0) -> None:
        self.name, self.frames, self.room = "collector", [], room
        self.allot(1)
        self.ops.accepts = accepts
        self.ops.state = <void *>self
        self.ops.deliver_burst = collect


def cut(
    bytes frame, int gso_type, int gso_size, int start, int offset, *, parts=(), uint32_t room=64, uint32_t accepts=0
) -> list[bytes]:
    """What arrives of a frame that lies in parts of so many bytes, and the rest. Empty: its header is refused."""
    cdef Collector egress = Collector(room, accepts)
    cdef FrameBurst *burst = <FrameBurst *>calloc(1, sizeof(FrameBurst))
    cdef Segment *segments = <Segment *>calloc(MAX_SEGMENTS, sizeof(Segment))
    cdef Cutter *cutter = make_cutter()
    cdef Super super
    cdef Delivery delivery
    cdef const uint8_t *data = frame
    cdef uint32_t at = 0, n = 0, _turn
    try:
        if burst == NULL or segments == NULL or cutter == NULL:
            raise MemoryError
        memset(&super, 0, sizeof(super))
        begin_heads(burst)
        burst.segments, burst.n_frames, burst.n_heads = segments, 1, 1
        burst.heads[1] = Head(
            NetHeader(1, <uint8_t>gso_type, 0, <uint16_t>gso_size, <uint16_t>start, <uint16_t>offset, 0), 0
        )
        if not check_head(&burst.heads[1], <uint32_t>len(frame), <uint32_t>EVERYTHING):
            return []
        for part in [*parts, len(frame) - sum(parts)]:
            segments[n] = Segment(<uint8_t *>data + at, part)
            at += part
            n += 1
        burst.frames[0].data, burst.frames[0].bytes = <uint8_t *>data, <uint32_t>len(frame)
        burst.frames[0].n_segments, burst.frames[0].head = <uint16_t>n, 1
        burst.needs = burst.heads[1].needs
        delivery = delivery_of(burst, 0, 1)
        if not burst.needs & ~accepts & CUT_NEEDS:
            collect(&egress.ops, 0, &delivery)
            return egress.frames
        for _turn in range(2000):  # it waits for room as often as it likes
            if deliver_cut(cutter, &super, &egress.ops, 0, &delivery):
                return egress.frames
        raise AssertionError("it is never dealt with")
    finally:
        free(burst)
        free(segments)
        discard_cutter(cutter)


def finish(bytes frame) -> bytes:
    own, copy = bytearray(frame), bytearray(frame)
    cdef uint8_t *data = own
    cdef uint8_t *to = copy
    cdef FrameBurst burst
    cdef Delivery delivery
    begin_heads(&burst)
    burst.n_heads = burst.needs = 0
    burst.segments = NULL
    burst.frames[0].data, burst.frames[0].bytes = data, <uint32_t>len(own)
    burst.frames[0].n_segments, burst.frames[0].head = 1, 0
    look_for_unfinished(&burst, &burst.frames[0])
    delivery = delivery_of(&burst, 0, 1)
    copy_finished(to, &delivery, &burst.frames[0])
    return bytes(copy)
