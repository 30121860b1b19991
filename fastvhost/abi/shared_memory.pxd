"""Every access to memory that another party writes at the same time. See shared_memory.h for what each promises."""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from fastvhost.abi.virtio_packed cimport pvirtq_desc
from fastvhost.abi.virtio_ring cimport virtq_desc


cdef extern from "fastvhost/abi/shared_memory.h" nogil:
    uint16_t load_u16(const uint16_t *p)
    uint16_t load_acquire_u16(const uint16_t *p)
    void store_u16(uint16_t *p, uint16_t v)
    void store_release_u16(uint16_t *p, uint16_t v)
    void store_u64(uint64_t *p, uint64_t v)

    uint32_t load_acquire_u32(const uint32_t *p)
    void store_release_u32(uint32_t *p, uint32_t v)
    void add_u32(uint32_t *p, uint32_t v)
    void add_u64(uint64_t *p, uint64_t v)
    uint64_t load_u64(const uint64_t *p)
    uint64_t load_acquire_u64(const uint64_t *p)
    void store_release_u64(uint64_t *p, uint64_t v)

    uint64_t set_bits_u64(uint64_t *p, uint64_t bits)
    uint64_t clear_bits_u64(uint64_t *p, uint64_t bits)
    int32_t exchange_i32(int32_t *p, int32_t v)
    int32_t load_i32(const int32_t *p)
    void store_release_i32(int32_t *p, int32_t v)
    bint replace_i32(int32_t *p, int32_t old, int32_t v)
    bint replace_u64(uint64_t *p, uint64_t old, uint64_t v)

    virtq_desc read_once_desc(const virtq_desc *p)
    pvirtq_desc read_once_packed_desc(const pvirtq_desc *p)
    pvirtq_desc read_once_packed_desc_anywhere(const pvirtq_desc *p)
    uint16_t read_once_u16_anywhere(const void *p)
    uint64_t read_once_u64_anywhere(const void *p)

    void full_fence()
    void prefetch_read(const void *p)
    void prefetch_write(const void *p)
    void cpu_pause()
