/* What a worker's thread has for itself, whatever its ports and queues: where it lays out receive chains before it
 * copies, and what it signals drivers with. Cython has no words for a thread's own variable. */
#ifndef FASTVHOST_THREAD_SCRATCH_H
#define FASTVHOST_THREAD_SCRATCH_H

#include "fastvhost/dataplane/signal_foreign.h"

static __thread void *thread_scratch;
static __thread struct signals thread_signals;

#endif
