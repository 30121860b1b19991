/* How long a store of one CPU takes to be seen by another: nanoseconds one way, the mean of many. Linux, gcc.
 * usage: cache_line CPU CPU */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TURNS 50000

static _Alignas(256) atomic_int ping;
static _Alignas(256) atomic_int pong;

static int pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

static void *answer(void *cpu)
{
    if (pin(*(int *)cpu))
        exit(1);
    for (int i = 1; i <= TURNS; i++) {
        while (atomic_load_explicit(&ping, memory_order_acquire) < i)
            ;
        atomic_store_explicit(&pong, i, memory_order_release);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct timespec start, end;
    pthread_t other;
    int there;
    if (argc != 3 || pin(atoi(argv[1])))
        return 1;
    there = atoi(argv[2]);
    if (pthread_create(&other, NULL, answer, &there))
        return 1;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 1; i <= TURNS; i++) {
        atomic_store_explicit(&ping, i, memory_order_release);
        while (atomic_load_explicit(&pong, memory_order_acquire) < i)
            ;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    pthread_join(other, NULL);
    printf("%.1f\n", ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / TURNS / 2);
    return 0;
}
