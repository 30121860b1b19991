"""The rare cases of content.pxd: gaps, late frames, duplicates; and bodies, filled and compared byte by byte."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

# A frame's body is a stretch of fixed noise that starts where the frame's number says. A prime number of starts:
# frames a power of two apart differ, and so do the bytes of one frame at such a distance.
cdef enum:
    NOISE_STARTS = 4093
    NOISE_BYTES = NOISE_STARTS + MOST_FRAME_BYTES
cdef uint8_t noise[NOISE_BYTES]


cdef void make_noise() noexcept nogil:
    """Marsaglia's xorshift64 from a fixed seed: the same bytes in every process."""
    cdef uint64_t x = 88172645463325252
    cdef int i
    for i in range(NOISE_BYTES):
        x ^= x << 13
        x ^= x >> 7
        x ^= x << 17
        noise[i] = <uint8_t>(x >> 32)


make_noise()


cdef void stream_start(Stream *stream, uint8_t sender_tag, uint8_t queue) noexcept nogil:
    memset(stream, 0, sizeof(Stream))
    stream.expected = <uint64_t>sender_tag << TAG_SHIFT | <uint64_t>queue << QUEUE_SHIFT


cdef Stream *stream_of(Stream *streams, uint32_t n_streams, const uint8_t *frame) noexcept nogil:
    """The stream whose frame this may be, or NULL."""
    cdef uint64_t number
    cdef uint32_t queue
    memcpy(&number, frame + NUMBER_OFFSET, 8)
    queue = <uint32_t>(number >> QUEUE_SHIFT) & 0xff
    return &streams[queue] if queue < n_streams else NULL


cdef void fill_body(uint8_t *piece, uint64_t number, uint32_t position, uint32_t n_bytes) noexcept nogil:
    memcpy(piece, noise + number % NOISE_STARTS + position, n_bytes)


cdef bint body_is_right(const uint8_t *piece, uint64_t number, uint32_t position, uint32_t n_bytes) noexcept nogil:
    return memcmp(piece, noise + number % NOISE_STARTS + position, n_bytes) == 0


cdef void number_is_not_next(Stream *stream, const uint8_t *frame, uint32_t frame_bytes) noexcept nogil:
    """Count a frame that is not the one expected: corrupt, after a gap, late, or a duplicate."""
    cdef uint64_t number, check
    memcpy(&number, frame + NUMBER_OFFSET, 8)
    memcpy(&check, frame + CHECK_OFFSET, 8)
    if check != check_word(number, frame_bytes) or number >> QUEUE_SHIFT != stream.expected >> QUEUE_SHIFT:
        stream.corrupt += 1   # nothing in it can be trusted; its number will be missing, as a gap
    elif number >= stream.expected:
        remember_gap(stream, stream.expected, number)
        stream.expected = number + 1
    elif leave_gap(stream, number):
        stream.reordered += 1
    else:
        stream.duplicated += 1


cdef void remember_gap(Stream *stream, uint64_t first, uint64_t end) noexcept nogil:
    cdef Gap *gap = &stream.gaps[stream.n_gaps % MAX_GAPS]
    gap.first, gap.end = first, end
    stream.n_gaps += 1
    stream.missing += end - first


cdef bint leave_gap(Stream *stream, uint64_t number) noexcept nogil:
    """Remove a late number from the gap that contains it. False: no remembered gap does."""
    cdef uint32_t n = stream.n_gaps if stream.n_gaps < MAX_GAPS else MAX_GAPS
    cdef Gap *gap
    cdef uint64_t end
    cdef uint32_t i
    for i in range(n):
        gap = &stream.gaps[i]
        if gap.first <= number < gap.end:
            end = gap.end
            gap.end = number
            stream.missing -= 1
            if number + 1 < end:
                stream.missing -= end - (number + 1)   # remember_gap counts them again
                remember_gap(stream, number + 1, end)
            return True
    return False
