/* The cheapest clock there is, for differences of microseconds: no system call, no conversion. */
#ifndef FASTVHOST_TICKS_H
#define FASTVHOST_TICKS_H

#include <stdint.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>

static uint64_t read_ticks(void)
{
    return __rdtsc();
}
#else
static uint64_t read_ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
#endif

#endif
