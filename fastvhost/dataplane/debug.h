/* What a debug build looks at while it works (setup.py, FASTVHOST_DEBUG=1). In every other build nothing here makes code.
 *
 * A check that fails ends the process with one line that names it: what is wrong by then would be in guest memory next.
 * These are our own promises to ourselves. What a guest, a front-end or a program does wrong is an error, never a check.
 */
#ifndef FASTVHOST_DEBUG_H
#define FASTVHOST_DEBUG_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef FASTVHOST_DEBUG
#define FASTVHOST_DEBUG 0
#endif

/* An address made of it is none that a CPU takes, a number made of it is beyond every ring. */
enum { DEBUG_POISON = 0xa5 };

static inline void check(int holds, const char *what)
{
    if (FASTVHOST_DEBUG && !holds) {
        fprintf(stderr, "fastvhost debug build: check failed: %s\n", what);
        abort();
    }
}

/* Before a function fills this memory, and after its content has lost its meaning. */
static inline void poison(void *at, size_t bytes)
{
    if (FASTVHOST_DEBUG)
        memset(at, DEBUG_POISON, bytes);
}

#endif
