"""The rate of a load, over the time in which its thread and the worker that serves it both had a CPU.

On a busy machine each of them is often ready to run and has no CPU. Frames move only while both run, so only that
common time shows what an attack takes from the worker. It is added up from slices of 0.1 ms:

the load's thread   its own CPU time tells whether it ran. A slice in which it did not is left out, and so are those
                    after it in which the worker has not begun again.
the worker          the kernel counts the time in which a thread is ready and has no CPU, but adds a wait only when it
                    is over. So slices are kept until one in which frames moved: the worker has run then, and its waits
                    are known, and are subtracted. A worker that sleeps, or is held, does not wait for a CPU: that time
                    counts.

Where both lost their CPUs between two movements of frames, it is not known how much of the worker's waits falls into
slices that are left out; an even part is taken (see count).

Linux, Documentation/scheduler/sched-stats.rst: /proc/PID/task/TID/schedstat.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport strtoull
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec
from posix.unistd cimport pread

from fastvhost.dataplane.eventfd cimport POLLIN, poll, pollfd
from fastvhost.driver.device cimport GuestDevice

cdef enum:
    SLICE_NS = 100 * 1000
    LOST_NS = 20 * 1000            # without a CPU: less of it in a slice is an interrupt, or a wake-up
    WARM_UP_NS = 300 * 1000        # the most that the worker may take to begin again

# At the end, so long without frames is not a wait for a CPU.
cdef int64_t END_NS = 5_000_000_000


cdef int64_t read_clock(int clock) noexcept nogil:
    cdef timespec t
    clock_gettime(clock, &t)
    return <int64_t>t.tv_sec * 1_000_000_000 + t.tv_nsec


cdef class CommonTime:
    """step: moves frames of devices; schedstat: that file of the worker's thread, or -1."""

    cdef object step
    cdef tuple devices
    cdef int schedstat
    cdef int64_t waits             # of the worker, as last read
    # added up so far
    cdef readonly int64_t nanoseconds
    cdef readonly uint64_t frames
    # slices whose waits are not known yet
    cdef int64_t kept_ns
    cdef int64_t first_ns          # of the first of them, if frames moved in it
    cdef int64_t still_ns          # of those in which no frame moved
    cdef uint64_t kept_frames
    cdef int64_t waited            # in and between them
    cdef int64_t left_out_ns       # of slices that were left out between them
    cdef int64_t warm_up           # not 0: for so long, slices without a frame are left out

    def __init__(self, object step=None, tuple devices=(), int schedstat=-1):
        self.step, self.devices, self.schedstat = step, devices, schedstat
        self.waits = self.read_waits()

    def add(self, int64_t ns, int64_t own_ns, uint64_t frames, int64_t waited_ns) -> None:
        """Add a slice of `ns` in which the load's thread had a CPU for `own_ns`.

        waited_ns: waits of the worker that have ended since the slice before.
        """
        self.take(ns, own_ns, frames, waited_ns)

    cdef void take(self, int64_t ns, int64_t own_ns, uint64_t frames, int64_t waited_ns) noexcept:
        self.waited += waited_ns
        if ns - own_ns > LOST_NS:
            self.left_out_ns += ns
            self.warm_up = WARM_UP_NS
        elif frames == 0:
            if self.warm_up:
                self.left_out_ns += ns
                self.warm_up = max(0, self.warm_up - ns)
            else:
                self.kept_ns += ns
                self.still_ns += ns
        elif self.warm_up:         # the worker began somewhere within this slice
            self.left_out_ns += ns
            self.count(0, 0)
            self.warm_up = 0
        elif self.waited < LOST_NS:
            self.count(0, 0)
            self.kept_ns = self.first_ns = ns
            self.kept_frames = frames
        else:
            self.count(ns, frames)

    cdef void count(self, int64_t ns, uint64_t frames) noexcept:
        """Count the kept slices, and this one, without the waits of the worker.

        Where slices were left out between them, some of the waits were in those. They are taken to be spread evenly
        over half of those, since the worker soon had nothing to do there, and the time in which no frame moved: half of
        the first slice and of this one, and all of those without frames.
        """
        cdef int64_t waited = self.waited if self.waited >= LOST_NS else 0
        cdef int64_t still = self.still_ns + (self.first_ns + ns) // 2
        if self.left_out_ns:
            waited = min(still, <int64_t>(<double>still * waited / (still + self.left_out_ns // 2)))
        self.nanoseconds += self.kept_ns + ns - min(waited, self.kept_ns + ns)
        self.frames += self.kept_frames + frames
        self.kept_ns = self.first_ns = self.still_ns = self.waited = self.left_out_ns = 0
        self.kept_frames = 0

    cdef uint64_t received(self):
        cdef GuestDevice device
        cdef uint64_t n = 0
        cdef uint32_t i
        for device in self.devices:
            for i in range(device.queues):
                n += device.sides[i].received_frames
        return n

    cdef int64_t read_waits(self):
        """Nanoseconds in which the worker was ready and had no CPU, without a wait that is not over."""
        cdef char text[64]
        cdef char *rest
        cdef ssize_t n = pread(self.schedstat, text, sizeof(text) - 1, 0)
        if n <= 0:
            return self.waits
        text[n] = 0
        strtoull(text, &rest, 10)
        return <int64_t>strtoull(rest, NULL, 10)

    def run(self, int until) -> None:
        """Move frames until this descriptor can be read, and what was measured is counted."""
        cdef pollfd asked = pollfd(until, POLLIN, 0)
        cdef int64_t start = read_clock(CLOCK_MONOTONIC), own = read_clock(CLOCK_THREAD_CPUTIME_ID), since = 0
        cdef int64_t end, own_end, waits
        cdef uint64_t frames = self.received(), before
        step = self.step
        self.warm_up = WARM_UP_NS
        while True:
            end = start
            while end - start < SLICE_NS:
                step()
                end = read_clock(CLOCK_MONOTONIC)
            own_end, waits, before = read_clock(CLOCK_THREAD_CPUTIME_ID), self.read_waits(), frames
            end, frames = read_clock(CLOCK_MONOTONIC), self.received()
            self.take(end - start, own_end - own, frames - before, waits - self.waits)
            start, own, self.waits = end, own_end, waits
            if poll(&asked, 1, 0):
                since = since or end
                if not self.still_ns and not self.warm_up or end - since > END_NS:
                    break
        if self.still_ns:
            self.waited = 0
            self.count(0, 0)
