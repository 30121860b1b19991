"""What frames of the load contain, and how their receiver counts by the numbers in them.

A frame: Ethernet header (type 0x88b5, IEEE's for local experiments), its number, a check word over number and length,
and in "whole" mode bytes that depend on number and position. Numbers carry the sender's tag and its queue in their
upper sixteen bits.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    NUMBER_OFFSET = 14
    CHECK_OFFSET = 22
    BODY_OFFSET = 30
    MIN_FRAME_BYTES = 60       # Ethernet's least, without the frame check sequence
    MOST_FRAME_BYTES = 65549   # without the virtio-net header; there is noise for bodies of this length
    TAG_SHIFT = 56
    QUEUE_SHIFT = 48
    MAX_GAPS = 64


cdef enum Content:
    CONTENT_NONE
    CONTENT_NUMBERS
    CONTENT_WHOLE


cdef struct Gap:
    uint64_t first
    uint64_t end               # first <= missing < end


# The frames of one queue of a sender, as their receiver counts them. Written by the load's thread, read by any.
cdef struct Stream:
    uint64_t expected          # the next number
    uint64_t corrupt
    uint64_t reordered
    uint64_t duplicated
    uint64_t missing
    Gap gaps[MAX_GAPS]         # the latest ones, as a ring: an old number in one of them is late, any other a duplicate
    uint32_t n_gaps


# 2^64 / golden ratio: neighbouring numbers differ in half of their bits.
cdef inline uint64_t spread_number(uint64_t number) noexcept nogil:
    return number * <uint64_t>0x9E3779B97F4A7C15


cdef inline uint64_t check_word(uint64_t number, uint32_t frame_bytes) noexcept nogil:
    return spread_number(number) + frame_bytes


cdef inline void number_frame(uint8_t *frame, uint64_t number, uint32_t frame_bytes) noexcept nogil:
    cdef uint64_t pair[2]
    pair[0] = number
    pair[1] = check_word(number, frame_bytes)
    memcpy(frame + NUMBER_OFFSET, pair, 16)


cdef inline bint has_number(const uint8_t *frame, uint64_t number, uint32_t frame_bytes) noexcept nogil:
    """Whether it has the expected number, and the check word of that number and this length."""
    cdef uint64_t pair[2]
    memcpy(pair, frame + NUMBER_OFFSET, 16)
    return (pair[0] ^ number) | (pair[1] ^ check_word(number, frame_bytes)) == 0


cdef void number_is_not_next(Stream *stream, const uint8_t *frame, uint32_t frame_bytes) noexcept nogil
cdef void stream_start(Stream *stream, uint8_t sender_tag, uint8_t queue) noexcept nogil
cdef Stream *stream_of(Stream *streams, uint32_t n_streams, const uint8_t *frame) noexcept nogil
cdef void fill_body(uint8_t *piece, uint64_t number, uint32_t position, uint32_t n_bytes) noexcept nogil
cdef bint body_is_right(const uint8_t *piece, uint64_t number, uint32_t position, uint32_t n_bytes) noexcept nogil
