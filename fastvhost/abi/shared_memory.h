/* Every access to memory that another party writes at the same time goes through these few functions.
 *
 * Guests are little-endian here (virtio 1.2, section 1.4, "fields are little-endian"), and so is every host that
 * fastvhost builds for; the check below says so at compile time.
 * "read once" means: one load instruction, the value never fetched again behind the checker's back.
 * Ring structures are naturally aligned (their addresses are checked when a queue starts); headers and descriptors in
 * indirect tables may stand at any address, so those go through the *_anywhere forms.
 */
#ifndef FASTVHOST_SHARED_MEMORY_H
#define FASTVHOST_SHARED_MEMORY_H

#include <linux/virtio_ring.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fastvhost runs on little-endian hosts only"
#endif

typedef struct __attribute__((packed)) { uint16_t value; } fv_anywhere_u16;
typedef struct __attribute__((packed)) { uint64_t value; } fv_anywhere_u64;

static inline uint16_t load_u16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint16_t load_acquire_u16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_u16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void store_release_u16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void store_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* Between our own threads: flags, counters that statistics read while a worker writes them. */
static inline uint32_t load_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void add_u32(uint32_t *p, uint32_t v) { __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
static inline void add_u64(uint64_t *p, uint64_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline uint64_t load_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

/* Between our own threads, in one order as all of them see it. Each returns what stood there before; load what stands
 * there, replace whether it was `old`. */
static inline uint64_t set_bits_u64(uint64_t *p, uint64_t bits) { return __atomic_fetch_or(p, bits, __ATOMIC_SEQ_CST); }
static inline uint64_t clear_bits_u64(uint64_t *p, uint64_t bits)
{
    return __atomic_fetch_and(p, ~bits, __ATOMIC_SEQ_CST);
}
static inline int32_t exchange_i32(int32_t *p, int32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
static inline int32_t load_i32(const int32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static inline void store_release_i32(int32_t *p, int32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline int replace_i32(int32_t *p, int32_t old, int32_t v)
{
    return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline int replace_u64(uint64_t *p, uint64_t old, uint64_t v)
{
    return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* A descriptor in two loads of eight bytes: addr, then len|flags|next. Each field is fetched exactly once. */
static inline struct vring_desc read_once_desc(const struct vring_desc *p)
{
    const volatile fv_anywhere_u64 *words = (const volatile fv_anywhere_u64 *)p;
    uint64_t pair[2] = {words[0].value, words[1].value};
    struct vring_desc d;
    memcpy(&d, pair, sizeof d);
    return d;
}

/* A packed descriptor: len|id|flags in one acquiring load of eight bytes, then addr. If the flags say that it is
 * available, all of it is what the driver wrote before. */
static inline struct vring_packed_desc read_once_packed_desc(const struct vring_packed_desc *p)
{
    uint64_t tail = __atomic_load_n((const uint64_t *)&p->len, __ATOMIC_ACQUIRE);
    uint64_t pair[2] = {__atomic_load_n((const uint64_t *)&p->addr, __ATOMIC_RELAXED), tail};
    struct vring_packed_desc d;
    memcpy(&d, pair, sizeof d);
    return d;
}

/* One of an indirect table, which may stand at any address and says nothing by its flags about being available. */
static inline struct vring_packed_desc read_once_packed_desc_anywhere(const struct vring_packed_desc *p)
{
    const volatile fv_anywhere_u64 *words = (const volatile fv_anywhere_u64 *)p;
    uint64_t pair[2] = {words[0].value, words[1].value};
    struct vring_packed_desc d;
    memcpy(&d, pair, sizeof d);
    return d;
}

static inline uint16_t read_once_u16_anywhere(const void *p) { return ((const volatile fv_anywhere_u16 *)p)->value; }

static inline uint64_t read_once_u64_anywhere(const void *p) { return ((const volatile fv_anywhere_u64 *)p)->value; }

/* Store, then load, in that order as everybody sees it. */
static inline void full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void prefetch_read(const void *p) { __builtin_prefetch(p, 0, 3); }
static inline void prefetch_write(const void *p)
{
#if defined(__x86_64__)
    /* GCC makes this a plain prefetch unless told -mprfchw; every 64-bit CPU takes the instruction. */
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1, 3);
#endif
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
