/* How long a store of one CPU takes to be seen by another: nanoseconds one way. Linux, gcc.
 * The median of small batches: where one of the two threads was off its CPU meanwhile, a batch says nothing.
 * usage: cache_line CPU CPU
 * Exit status 2, and no figure: the two threads were never on their CPUs at the same time. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BATCH 20          /* there and back */
#define BATCHES 2500
#define FEW 100
#define PATIENT_LOOKS 10000
/* Other programs may have these CPUs: then fewer batches are enough, and after longer even few. */
#define ENOUGH_NS 3e8
#define MOST_NS 3e9

static _Alignas(256) atomic_int ping;
static _Alignas(256) atomic_int pong;
static _Alignas(256) double give_up;

static int pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double first = *(const double *)a, other = *(const double *)b;
    return (first > other) - (first < other);
}

/* Wait until a number is another one. Where the other thread is off its CPU, this one leaves its own for a moment.
 * -1: it is time to give up. */
static int next_of(atomic_int *place, int known)
{
    int found, looks = 0;
    while ((found = atomic_load_explicit(place, memory_order_acquire)) == known)
        if (++looks > PATIENT_LOOKS) {
            if (now_ns() > give_up)
                return -1;
            sched_yield();
        }
    return found;
}

/* Returns what was asked, until that is negative. */
static void *answer(void *cpu)
{
    int asked = 0;
    if (pin(*(int *)cpu))
        exit(1);
    while ((asked = next_of(&ping, asked)) > 0)
        atomic_store_explicit(&pong, asked, memory_order_release);
    return NULL;
}

int main(int argc, char **argv)
{
    static double batches[BATCHES];
    double start = now_ns(), begun;
    pthread_t other;
    int there, n = 0, turn = 0;
    if (argc != 3 || pin(atoi(argv[1])))
        return 1;
    there = atoi(argv[2]);
    give_up = start + MOST_NS;
    if (pthread_create(&other, NULL, answer, &there))
        return 1;
    while (n < BATCHES && (n < FEW || now_ns() - start < ENOUGH_NS)) {
        begun = now_ns();
        for (int i = 0; i < BATCH && turn >= 0; i++) {
            atomic_store_explicit(&ping, turn + 1, memory_order_release);
            turn = next_of(&pong, turn);
        }
        if (turn < 0)
            break;
        batches[n++] = (now_ns() - begun) / BATCH / 2;
    }
    atomic_store_explicit(&ping, -1, memory_order_release);
    pthread_join(other, NULL);
    if (n == 0)
        return 2;
    qsort(batches, n, sizeof batches[0], by_size);
    printf("%.1f\n", batches[n / 2]);
    return 0;
}
