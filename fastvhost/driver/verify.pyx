"""Verifies the frames that a guest receives: header, number, body, and whether each is the next of its stream.

One call for a burst. What every frame needs is in this file; the rare cases are in content.pyx.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport prefetch_read
from fastvhost.abi.virtio_net cimport NET_HDR_NUM_BUFFERS_OFFSET
from fastvhost.driver.content cimport (
    BODY_OFFSET, CONTENT_NONE, CONTENT_WHOLE, MOST_FRAME_BYTES, Stream, body_is_right, has_number, number_is_not_next,
    stream_of,
)
from fastvhost.driver.device cimport Pair
from fastvhost.driver.queue cimport DRIVER_BURST, Completion


cdef uint32_t verify_burst(Pair *side, const Completion *done, uint32_t n) noexcept nogil:
    cdef uint32_t n_bytes = 0
    cdef uint32_t i
    if side.content == CONTENT_NONE and not side.spans:
        for i in range(n):
            n_bytes += done[i].bytes
        side.received_bytes += n_bytes - n * side.header_bytes
        side.received_frames += n
        return n
    for i in range(n):
        prefetch_read(side.receive_data + done[i].slot * <uint64_t>side.receive_stride)
    return look_at_single(side, done, n) if not side.spans else look_at_spanning(side, done, n)


cdef inline bint header_is_right(const Pair *side, const uint8_t *header, uint32_t n_buffers) noexcept nogil:
    """Whether a header is the one expected: the peer's where this driver takes offloads, else zeros. With the number of
    buffers where these are mergeable. Section 5.1.6.4.
    """
    cdef uint64_t words
    cdef uint32_t tail
    memcpy(&words, header, 8)
    memcpy(&tail, header + 8, 4)
    return (
        words ^ side.received_words
        | ((tail ^ (n_buffers * side.header_tail | side.received_tail)) & side.header_tail_mask)
    ) == 0


cdef uint32_t look_at_single(Pair *side, const Completion *done, uint32_t n) noexcept nogil:
    """Frames of one buffer each."""
    cdef Stream *stream = side.stream
    cdef const uint8_t *data = side.receive_data
    cdef const uint8_t *header
    cdef uint64_t stride = side.receive_stride
    cdef uint64_t expected = stream.expected
    cdef uint32_t header_bytes = side.header_bytes + side.received_lead
    cdef uint64_t n_bytes = n * side.received_lead
    cdef uint32_t frame_bytes, i, most = side.receive_bytes - header_bytes
    cdef bint whole = side.content == CONTENT_WHOLE
    for i in range(n):
        header = data + done[i].slot * stride
        frame_bytes = done[i].bytes - header_bytes
        n_bytes += frame_bytes
        if (
            frame_bytes <= most and header_is_right(side, header, 1)
            and has_number(header + header_bytes, expected, frame_bytes)
        ):
            expected += 1
            if whole:
                check_body(stream, header + header_bytes, frame_bytes, expected - 1)
        else:
            n_bytes -= frame_bytes + side.received_lead
            stream.expected = expected
            n_bytes += look_twice(side, header, frame_bytes)
            stream = side.stream
            expected = stream.expected
    stream.expected = expected
    side.received_bytes += n_bytes
    side.received_frames += n
    return n


cdef void check_body(Stream *stream, const uint8_t *frame, uint32_t frame_bytes, uint64_t number) noexcept nogil:
    if frame_bytes < BODY_OFFSET or not body_is_right(
        frame + BODY_OFFSET, number, BODY_OFFSET, frame_bytes - BODY_OFFSET
    ):
        stream.corrupt += 1


cdef uint32_t look_twice(Pair *side, const uint8_t *header, uint32_t frame_bytes) noexcept nogil:
    """Handle a frame that is not the one expected. Returns its bytes; 0: its length or header is wrong."""
    cdef const uint8_t *frame = header + side.header_bytes + side.received_lead
    cdef uint32_t most = side.receive_bytes - side.header_bytes - side.received_lead
    if frame_bytes > most or not header_is_right(side, header, 1):
        side.stream.corrupt += 1
        return 0
    if is_next_of_its_stream(side, frame, frame_bytes):
        if side.content == CONTENT_WHOLE:
            check_body(side.stream, frame, frame_bytes, side.stream.expected)
        side.stream.expected += 1
    return frame_bytes + side.received_lead


cdef bint is_next_of_its_stream(Pair *side, const uint8_t *frame, uint32_t frame_bytes) noexcept nogil:
    """Make the frame's stream the one looked at. False: it is not the next frame there, and was counted as such."""
    cdef Stream *stream = stream_of(side.streams, side.n_streams, frame)
    if stream != NULL:
        side.stream = stream
    if has_number(frame, side.stream.expected, frame_bytes):
        return True
    number_is_not_next(side.stream, frame, frame_bytes)
    return False


cdef uint32_t look_at_spanning(Pair *side, const Completion *done, uint32_t n) noexcept nogil:
    """Frames of one or more buffers. Returns how many buffers are done with: see verify.pxd."""
    cdef const uint8_t *header
    cdef uint16_t n_buffers
    cdef uint32_t i = 0
    while i < n:
        header = side.receive_data + done[i].slot * <uint64_t>side.receive_stride
        memcpy(&n_buffers, header + NET_HDR_NUM_BUFFERS_OFFSET, 2)
        if n_buffers == 0 or n_buffers > DRIVER_BURST:
            n_buffers = 1
            side.stream.corrupt += 1
        elif n_buffers > n - i:
            if n == DRIVER_BURST and i > 0:
                side.format.untake(&side.receiveq, n - i)
                break
            n_buffers = <uint16_t>(n - i)    # all buffers of a frame are used at once; Linux checks that, too
            side.stream.corrupt += 1
        else:
            look_at_buffers(side, &done[i], n_buffers)
        side.received_frames += 1
        i += n_buffers
    return i


cdef void look_at_buffers(Pair *side, const Completion *done, uint32_t n_buffers) noexcept nogil:
    """One frame that lies in n_buffers buffers, header in the first. Section 5.1.6.4."""
    cdef const uint8_t *first = side.receive_data + done[0].slot * <uint64_t>side.receive_stride
    cdef const uint8_t *data
    cdef uint64_t number
    cdef uint64_t total = 0
    cdef uint32_t position, n_bytes, skip, i
    cdef bint right
    for i in range(n_buffers):
        if done[i].bytes > side.receive_bytes:
            side.stream.corrupt += 1
            return
        total += done[i].bytes
    if done[0].bytes < side.header_bytes or not header_is_right(side, first, n_buffers):
        side.stream.corrupt += 1
        return
    total -= side.header_bytes
    if total > MOST_FRAME_BYTES:
        side.stream.corrupt += 1
        return
    side.received_bytes += total
    if side.content == CONTENT_NONE:
        return
    if done[0].bytes < side.header_bytes + side.received_lead + BODY_OFFSET:
        side.stream.corrupt += 1
        return
    first += side.header_bytes + side.received_lead
    if not is_next_of_its_stream(side, first, <uint32_t>total - side.received_lead):
        return
    number = side.stream.expected
    side.stream.expected += 1
    if side.content == CONTENT_WHOLE:
        position = BODY_OFFSET
        skip = side.header_bytes + side.received_lead + BODY_OFFSET
        right = True
        for i in range(n_buffers):
            data = side.receive_data + done[i].slot * <uint64_t>side.receive_stride
            n_bytes = done[i].bytes - skip
            right &= body_is_right(data + skip, number, position, n_bytes)
            position += n_bytes
            skip = 0
        side.stream.corrupt += not right
