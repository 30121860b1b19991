/* Each way of this machine to copy and sum, beside the sum as RFC 1071 writes it down: every length up to 300 and some
 * up to 64 KiB, at every place in a cache line, in two pieces cut anywhere. Nothing beside the copy is written.
 * Ends with 0, or says what differs. Built and run by tests/unit/test_checksum.py. */
#include <stdio.h>
#include "fastvhost/dataplane/offload/checksum.h"

enum { MOST = 65536, ROOM = MOST + 512 };
static uint8_t from[ROOM], to[ROOM];

static uint16_t scalar(const uint8_t *at, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (uint64_t)at[i] << (i & 1 ? 8 : 0);
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static uint64_t state = 88172645463325252;

static uint32_t any(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static int differs(const char *name, copy_and_sum_fn way, uint32_t n, uint32_t at_from, uint32_t at_to, uint32_t cut)
{
    memset(to, 0xa5, n + 256);
    uint64_t sum = way(to + at_to, from + at_from, cut);
    sum = placed_sum(sum, 0) + placed_sum(way(to + at_to + cut, from + at_from + cut, n - cut), cut & 1);
    int wrong = fold(sum) != scalar(from + at_from, n) || memcmp(to + at_to, from + at_from, n);
    for (uint32_t i = 0; i < at_to; i++)
        wrong |= to[i] != 0xa5;
    for (uint32_t i = at_to + n; i < at_to + n + 64; i++)
        wrong |= to[i] != 0xa5;
    if (wrong)
        printf("%s: %u bytes from %u to %u, cut at %u\n", name, n, at_from, at_to, cut);
    return wrong;
}

static int try_way(const char *name, copy_and_sum_fn way)
{
    for (uint32_t n = 0; n <= 300; n++)
        for (uint32_t place = 0; place < 64; place++)
            if (differs(name, way, n, any(64), place, any(n + 1)))
                return 1;
    for (uint32_t round = 0; round < 400; round++) {
        uint32_t n = any(MOST);
        if (differs(name, way, n, any(64), any(64), any(n + 1)))
            return 1;
    }
    printf("%s\n", name);
    return 0;
}

int main(void)
{
    int wrong = 0;
    for (uint32_t kind = 0; kind < 3; kind++) {
        for (uint32_t i = 0; i < ROOM; i++)
            from[i] = kind == 0 ? (uint8_t)any(256) : kind == 1 ? 0xff : 0;
        wrong |= try_way("plain", copy_and_sum_plain);
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2"))
            wrong |= try_way("avx2", copy_and_sum_avx2);
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2"))
            wrong |= try_way("avx512", copy_and_sum_avx512);
#elif defined(__aarch64__)
        wrong |= try_way("neon", copy_and_sum_neon);
#endif
    }
    choose_sum_level("plain");
    return wrong;
}
