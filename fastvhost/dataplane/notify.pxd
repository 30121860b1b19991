"""Notifies a driver without ever waiting for it: at once, or by the helper thread of its port.

A worker signals by AIO or send(2), which never wait. Where there is no AIO context, or where signalling takes long, it
sets the ring's bit in `Asked` and wakes the helper (notifier.pyx), which may wait. No other code writes to a descriptor
that a front-end also has.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport set_bits_u64
from fastvhost.dataplane.eventfd cimport wake_eventfd

cdef extern from "fastvhost/dataplane/signal_foreign.h" nogil:
    struct signals:
        unsigned long context
        int nothing
        uint32_t untimed
    void discard_signals(signals *made)
    bint signal_eventfd(const signals *by, int fd)
    bint signal_socket(int fd)
    void signal_and_wait(int fd)
    int socket_domain(int fd)

cdef enum:
    MOST_SLOTS = 512         # one for the call and one for the err descriptor of 256 rings
    ASKED_WORDS = MOST_SLOTS // 64

    # Signalling that takes longer counts as slow. A wake-up takes 1 to 5 us; with many waiters, 20 ns for each.
    SLOW_NS = 20 * 1000
    UNTIMED = 63             # notifications of a worker between two timed ones
    LAST_SAMPLES = 0xFF      # eight of them, a bit each, 1 for a slow one
    EMPTY_TRIES = 4          # slow reads of a kick eventfd in a row, all of nothing, that count as a slow one
    AGAIN_NS = 250 * 1000 * 1000  # after this time a slow kick eventfd is read once more
    SLOW_SECONDS = 60        # for this time the next front-end of the port counts as slow, too

# How the drivers of a port are notified.
cdef enum:
    AT_ONCE                  # the last eight that were timed were all quick
    TIMED                    # not all of them: each one is timed
    BY_HELPER                # their median was slow; until the front-end is gone


# What a port's helper is to signal: a bit for each slot.
cdef struct Asked:
    uint64_t words[ASKED_WORDS]  # set by workers, cleared by the helper or when the ring ends
    int wake_fd                  # no front-end has it; wakes the helper, or the control thread where none runs
    int32_t how                  # written by workers, and with a new front-end
    uint32_t samples             # of notifications that were timed
    # written with a new front-end
    uint64_t slow_until          # monotonic ns


cdef int make_thread_signals(signals *made) noexcept
cdef const signals *control_signals() noexcept nogil
cdef void judge_anew(Asked *asked) noexcept nogil


cdef inline void ask_helper(Asked *asked, uint32_t slot) noexcept nogil:
    """Ask for a signal. Only the first bit of a word wakes the helper: while a bit is set, it is about to run."""
    # A worker calls this after publish(), which makes a full fence. The helper clears the bit and then signals: so each
    # request is followed by a signal, and the driver then sees what was published before.
    if set_bits_u64(&asked.words[slot // 64], <uint64_t>1 << slot % 64) == 0:
        wake_eventfd(asked.wake_fd)


cdef inline uint32_t with_sample(uint32_t samples, uint64_t took_ns) noexcept nogil:
    """Add a sample to the last eight."""
    return (samples << 1 | (took_ns > SLOW_NS)) & LAST_SAMPLES


cdef inline bint mostly_slow(uint32_t samples) noexcept nogil:
    """Whether the median of the last eight was slow; a single interrupted one does not matter."""
    cdef uint32_t n = 0
    while samples:
        samples &= samples - 1
        n += 1
    return n > 4
