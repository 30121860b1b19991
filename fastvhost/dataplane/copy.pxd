"""The one copy, a burst of frames at a time. See copy.h."""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from "fastvhost/dataplane/copy.h" nogil:
    struct frame_copy:
        uint8_t *to
        const uint8_t *from_ "from"
        uint32_t bytes
        uint32_t header_bytes
        const void *header
    void choose_copy_level()
    void copy_frames(const frame_copy *list, uint32_t n)
    void copy_headed_frames(const frame_copy *list, uint32_t n)
    uint8_t *put_header(uint8_t *to, const void *header, uint32_t header_bytes)
    const char *copy_level_name
