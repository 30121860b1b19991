/* The Internet checksum, RFC 1071: sums of 16-bit words as they lie in memory, folded at the end. */
#ifndef FASTVHOST_CHECKSUM_H
#define FASTVHOST_CHECKSUM_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Adds bytes to a sum. An odd count is for the last piece only. */
static inline uint64_t add_bytes(const uint8_t *at, uint32_t n, uint64_t sum)
{
    uint32_t word;
    uint16_t half = 0;
    for (; n >= 4; n -= 4, at += 4) {
        memcpy(&word, at, 4);
        sum += word;
    }
    if (n >= 2) {
        memcpy(&half, at, 2);
        sum += half;
        at += 2;
        n -= 2;
    }
    if (n) {
        half = 0;
        memcpy(&half, at, 1);
        sum += half;
    }
    return sum;
}

/* The checksum to be stored, in the order of memory. */
static inline uint16_t fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* That of TCP and UDP. RFC 768: 0 means that there is none. For TCP it makes no difference. */
static inline uint16_t fold_transport(uint64_t sum)
{
    uint16_t checksum = fold(sum);
    return checksum ? checksum : 0xffff;
}

/* Copies bytes and returns their sum, as add_bytes would: of what was written, even if `from` changes meanwhile. */
static uint64_t copy_and_sum_plain(uint8_t *to, const uint8_t *from, uint32_t n)
{
    uint64_t sum = 0, words;
    for (; n >= 8; n -= 8, from += 8, to += 8) {
        memcpy(&words, from, 8);
        __asm__("" : "+r"(words));  /* loaded once */
        memcpy(to, &words, 8);
        sum += (words & 0xffffffff) + (words >> 32);
    }
    if (n) {
        words = 0;
        memcpy(&words, from, n);
        __asm__("" : "+r"(words));
        memcpy(to, &words, n);
        sum += (words & 0xffffffff) + (words >> 32);
    }
    return sum;
}

#if defined(__x86_64__)

__attribute__((target("avx2")))
static uint64_t copy_and_sum_avx2(uint8_t *to, const uint8_t *from, uint32_t n)
{
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m256i sums = _mm256_setzero_si256(), more = _mm256_setzero_si256();
    uint64_t lanes[4];
    for (; n >= 32; n -= 32, from += 32, to += 32) {
        __m256i words = _mm256_loadu_si256((const __m256i *)from);
        _mm256_storeu_si256((__m256i *)to, words);
        sums = _mm256_add_epi64(sums, _mm256_and_si256(words, low));
        more = _mm256_add_epi64(more, _mm256_srli_epi64(words, 32));
    }
    _mm256_storeu_si256((__m256i *)lanes, _mm256_add_epi64(sums, more));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3] + copy_and_sum_plain(to, from, n);
}

__attribute__((target("avx512f,avx512bw,avx512vl,bmi2")))
static uint64_t copy_and_sum_avx512(uint8_t *to, const uint8_t *from, uint32_t n)
{
    const __m512i low = _mm512_set1_epi64(0xffffffff);
    __m512i sums = _mm512_setzero_si512(), more = _mm512_setzero_si512(), words;
    uint32_t skew = -(uintptr_t)to & 63;
    /* Stores of a whole line each, unless words would then begin at odd places. */
    if (n >= 256 && !(skew & 1)) {
        __mmask64 start = _bzhi_u64(~0ull, skew);
        words = _mm512_maskz_loadu_epi8(start, from);
        _mm512_mask_storeu_epi8(to, start, words);
        sums = _mm512_and_si512(words, low);
        more = _mm512_srli_epi64(words, 32);
        n -= skew;
        from += skew;
        to += skew;
    }
    for (; n >= 64; n -= 64, from += 64, to += 64) {
        words = _mm512_loadu_si512(from);
        _mm512_storeu_si512(to, words);
        sums = _mm512_add_epi64(sums, _mm512_and_si512(words, low));
        more = _mm512_add_epi64(more, _mm512_srli_epi64(words, 32));
    }
    if (n) {
        __mmask64 rest = _bzhi_u64(~0ull, n);
        words = _mm512_maskz_loadu_epi8(rest, from);
        _mm512_mask_storeu_epi8(to, rest, words);
        sums = _mm512_add_epi64(sums, _mm512_and_si512(words, low));
        more = _mm512_add_epi64(more, _mm512_srli_epi64(words, 32));
    }
    return (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(sums, more));
}

#elif defined(__aarch64__)

/* Every 64-bit Arm has it. */
static uint64_t copy_and_sum_neon(uint8_t *to, const uint8_t *from, uint32_t n)
{
    uint64x2_t sums = vdupq_n_u64(0), more = vdupq_n_u64(0);
    for (; n >= 32; n -= 32, from += 32, to += 32) {
        uint8x16_t first = vld1q_u8(from), second = vld1q_u8(from + 16);
        vst1q_u8(to, first);
        vst1q_u8(to + 16, second);
        sums = vpadalq_u32(sums, vreinterpretq_u32_u8(first));
        more = vpadalq_u32(more, vreinterpretq_u32_u8(second));
    }
    return vaddvq_u64(vaddq_u64(sums, more)) + copy_and_sum_plain(to, from, n);
}

#endif

typedef uint64_t (*copy_and_sum_fn)(uint8_t *, const uint8_t *, uint32_t);

static __attribute__((unused)) copy_and_sum_fn copy_and_sum = copy_and_sum_plain;  /* not in each file that sums */

/* As copy.h chooses the level of its copies. */
static void choose_sum_level(const char *level)
{
#if defined(__x86_64__)
    if (!strcmp(level, "avx512"))
        copy_and_sum = copy_and_sum_avx512;
    else if (!strcmp(level, "avx2"))
        copy_and_sum = copy_and_sum_avx2;
#elif defined(__aarch64__)
    (void)level;
    copy_and_sum = copy_and_sum_neon;
#else
    (void)level;
#endif
}

/* A piece's sum as part of a whole one: from an odd place on, the bytes of each word are the other way round. */
static inline uint64_t placed_sum(uint64_t sum, int odd)
{
    uint16_t folded;
    if (!odd)
        return (sum & 0xffffffff) + (sum >> 32);
    folded = (uint16_t)~fold(sum);
    return (uint16_t)(folded << 8 | folded >> 8);
}

#endif
