/* Where a worker lays out receive chains before it copies: one place a thread, whatever its ports and queues. Cython has
 * no words for a thread's own variable. */
#ifndef FASTVHOST_THREAD_SCRATCH_H
#define FASTVHOST_THREAD_SCRATCH_H

static __thread void *thread_scratch;

#endif
