/* The one copy: frames from the ingress guest's buffers into the egress guest's, a burst at a time.
 *
 * One function for each level of the CPU, chosen once when the module is loaded; within a burst there is no dispatch.
 * A frame is written as a virtio-net header and the payload behind it: one that offers nothing (virtio 1.2, section
 * 5.1.6), or, by copy_headed_frames, its own.
 * Loads and stores never touch a byte outside [from, from + bytes) and [to, to + header + bytes): the tail is masked
 * or overlaps backwards.
 */
#ifndef FASTVHOST_COPY_H
#define FASTVHOST_COPY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "fastvhost/abi/shared_memory.h"

struct frame_copy {
    uint8_t *to;            /* where the header goes, if any; the payload follows it */
    const uint8_t *from;
    uint32_t bytes;         /* of payload */
    uint32_t header_bytes;  /* 12 or 10; 0 for a frame's further pieces */
    const void *header;     /* 12 bytes in memory of ours; looked at by copy_headed_frames alone */
};

/* flags, gso_type, hdr_len, gso_size, csum_start, csum_offset: all zero; then num_buffers, where the layout has it. */
static const uint8_t plain_header[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0};

/* A header that ends with its cache line shares it with nothing that is written anyway. DPDK's driver lays out its
 * buffers like that, and leaves alone a header that says what it should. So do we: the line then never has to cross
 * between the CPUs of guest and host. */
static inline __attribute__((always_inline)) uint8_t *put_header(uint8_t *to, const void *header, uint32_t header_bytes)
{
    if (!((uintptr_t)(to + header_bytes) & 63) && !memcmp(to, header, header_bytes))
        return to + header_bytes;
    if (__builtin_expect(header_bytes == 12, 1))
        memcpy(to, header, 12);
    else if (header_bytes)
        memcpy(to, header, 10);
    return to + header_bytes;
}

/* Each of the functions below exists twice, and which header is meant costs no decision for each frame. */
#define HEADER_OF(copy) (headed ? (copy).header : plain_header)

static inline __attribute__((always_inline))
void copy_as_plain(const struct frame_copy *list, uint32_t n, int headed)
{
    for (uint32_t i = 0; i < n; i++)
        memcpy(put_header(list[i].to, HEADER_OF(list[i]), list[i].header_bytes), list[i].from, list[i].bytes);
}

static void copy_frames_plain(const struct frame_copy *list, uint32_t n) { copy_as_plain(list, n, 0); }
static void copy_headed_frames_plain(const struct frame_copy *list, uint32_t n) { copy_as_plain(list, n, 1); }

#if defined(__x86_64__)

/* Taking a frame from its ring prefetches its first two cache lines. The others of a short frame are prefetched here,
 * COPIES_AHEAD copies before its own; in frames of SEEN_FROM bytes and more the hardware prefetches by itself. */
enum { ASKED_FOR = 128, SEEN_FROM = 1024, COPIES_AHEAD = 2 };

static inline void expect_copy(const struct frame_copy *list, uint32_t n, uint32_t i)
{
    const struct frame_copy *copy = &list[i + COPIES_AHEAD];
    if (list[i].bytes >= SEEN_FROM || i + COPIES_AHEAD >= n || copy->bytes >= SEEN_FROM)
        return;
    const uint8_t *from = copy->from, *to = copy->to + copy->header_bytes;
    for (uint32_t at = ASKED_FOR; at < copy->bytes; at += 64) {
        prefetch_read(from + at);
        prefetch_write(to + at);
    }
}

/* Intel's prefetcher notices a long frame only after its copy has begun. So while line k of a long frame is copied, line k
 * of the next one is prefetched, at most one line beyond its end. Not measured on other CPUs. */
static int asks_line_by_line;

static inline int asks_for_next(const struct frame_copy *list, uint32_t n, uint32_t i)
{
    return asks_line_by_line && list[i].bytes >= SEEN_FROM && i + 1 < n && list[i + 1].bytes >= list[i].bytes;
}

/* The header is 12 bytes, so payloads stand 12 bytes off a cache line, and a vector store there touches two lines.
 * Longer frames therefore start with one store that overlaps the next, and go on with aligned ones. */

__attribute__((target("avx2"))) static inline __attribute__((always_inline))
void copy_as_avx2(const struct frame_copy *list, uint32_t n, int headed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *to = put_header(list[i].to, HEADER_OF(list[i]), list[i].header_bytes);
        const uint8_t *from = list[i].from;
        uint32_t bytes = list[i].bytes;
        if (bytes < 32) {
            memcpy(to, from, bytes);
            continue;
        }
        const uint8_t *last_from = from + bytes - 32;
        uint8_t *last_to = to + bytes - 32;
        if (bytes > ASKED_FOR) {
            expect_copy(list, n, i);
            uint32_t skew = -(uintptr_t)to & 31;
            _mm256_storeu_si256((__m256i *)to, _mm256_loadu_si256((const __m256i *)from));
            for (from += skew, to += skew; from < last_from; from += 32, to += 32)
                _mm256_store_si256((__m256i *)to, _mm256_loadu_si256((const __m256i *)from));
        } else {
            for (; from < last_from; from += 32, to += 32)
                _mm256_storeu_si256((__m256i *)to, _mm256_loadu_si256((const __m256i *)from));
        }
        _mm256_storeu_si256((__m256i *)last_to, _mm256_loadu_si256((const __m256i *)last_from));
    }
}

__attribute__((target("avx2")))
static void copy_frames_avx2(const struct frame_copy *list, uint32_t n) { copy_as_avx2(list, n, 0); }
__attribute__((target("avx2")))
static void copy_headed_frames_avx2(const struct frame_copy *list, uint32_t n) { copy_as_avx2(list, n, 1); }

#define AVX512 "avx512f,avx512bw,avx512vl,bmi2"

__attribute__((target(AVX512))) static inline __attribute__((always_inline))
void copy_as_avx512(const struct frame_copy *list, uint32_t n, int headed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *to = put_header(list[i].to, HEADER_OF(list[i]), list[i].header_bytes);
        const uint8_t *from = list[i].from;
        uint32_t bytes = list[i].bytes;
        if (bytes > ASKED_FOR) {
            expect_copy(list, n, i);
            uint32_t skew = -(uintptr_t)to & 63;
            _mm512_storeu_si512(to, _mm512_loadu_si512(from));
            from += skew;
            to += skew;
            bytes -= skew;
            if (asks_for_next(list, n, i)) {
                const uint8_t *next_from = list[i + 1].from + 64, *next_to = list[i + 1].to + 64;
                for (; bytes >= 64; bytes -= 64, from += 64, to += 64, next_from += 64, next_to += 64) {
                    __m512i line = _mm512_loadu_si512(from);
                    prefetch_read(next_from);
                    prefetch_write(next_to);
                    _mm512_store_si512(to, line);
                }
            }
            for (; bytes >= 128; bytes -= 128, from += 128, to += 128) {
                __m512i first = _mm512_loadu_si512(from), second = _mm512_loadu_si512(from + 64);
                _mm512_store_si512(to, first);
                _mm512_store_si512(to + 64, second);
            }
        }
        for (; bytes >= 64; bytes -= 64, from += 64, to += 64)
            _mm512_storeu_si512(to, _mm512_loadu_si512(from));
        if (bytes) {
            __mmask64 rest = _bzhi_u64(~0ull, bytes);
            _mm512_mask_storeu_epi8(to, rest, _mm512_maskz_loadu_epi8(rest, from));
        }
    }
}

__attribute__((target(AVX512)))
static void copy_frames_avx512(const struct frame_copy *list, uint32_t n) { copy_as_avx512(list, n, 0); }
__attribute__((target(AVX512)))
static void copy_headed_frames_avx512(const struct frame_copy *list, uint32_t n) { copy_as_avx512(list, n, 1); }

#endif

typedef void (*copy_frames_fn)(const struct frame_copy *, uint32_t);

static copy_frames_fn copy_frames_at_level = copy_frames_plain, copy_headed_at_level = copy_headed_frames_plain;
static const char *copy_level_name = "plain";

/* FASTVHOST_CPU_LEVEL=plain|avx2|avx512 lowers the level; it never raises it above what the CPU has. */
static void choose_copy_level(void)
{
#if defined(__x86_64__)
    const char *most = getenv("FASTVHOST_CPU_LEVEL");
    int plain = most && !strcmp(most, "plain"), avx2 = most && !strcmp(most, "avx2");
    __builtin_cpu_init();
    if (!plain && !avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2")) {
        copy_frames_at_level = copy_frames_avx512;
        copy_headed_at_level = copy_headed_frames_avx512;
        copy_level_name = "avx512";
        asks_line_by_line = __builtin_cpu_is("intel");
    } else if (!plain && __builtin_cpu_supports("avx2")) {
        copy_frames_at_level = copy_frames_avx2;
        copy_headed_at_level = copy_headed_frames_avx2;
        copy_level_name = "avx2";
    }
#endif
}

static inline void copy_frames(const struct frame_copy *list, uint32_t n)
{
    copy_frames_at_level(list, n);
}

static inline void copy_headed_frames(const struct frame_copy *list, uint32_t n)
{
    copy_headed_at_level(list, n);
}

#endif
