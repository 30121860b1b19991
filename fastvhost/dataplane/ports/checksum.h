/* The Internet checksum, RFC 1071: sums of 16-bit words as they lie in memory, folded at the end. */
#ifndef FASTVHOST_CHECKSUM_H
#define FASTVHOST_CHECKSUM_H

#include <stdint.h>
#include <string.h>

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

#endif
