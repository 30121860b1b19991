"""How much of something may pass in a second, and how much at once beyond that: a token bucket, in one word.

The word is the moment up to which all that passed is paid for (a virtual clock, as in the GCRA of ITU-T I.371). An
allowance that was not used for long is full: its burst may pass at once. Several workers may take from one.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_u64, replace_u64, store_u64


cdef struct Allowance:
    # set by control, one word at a time
    double unit_ns           # that one unit takes; 0: no limit
    uint64_t burst_ns        # that the burst takes
    # written by the workers that take from it
    uint64_t paid            # monotonic ns


cdef enum:
    SECOND_NS = 1000000000


cdef inline void set_allowance(Allowance *allowance, double per_second, double burst) noexcept nogil:
    """So many units a second, and so many at once. per_second 0: any number. It is full afterwards."""
    allowance.unit_ns = 0
    store_u64(&allowance.paid, 0)
    if per_second > 0:
        allowance.burst_ns = <uint64_t>(burst * SECOND_NS / per_second + 0.5)
        allowance.unit_ns = SECOND_NS / per_second


cdef inline bint is_limited(const Allowance *allowance) noexcept nogil:
    return allowance.unit_ns > 0


cdef inline uint64_t room_ns(const Allowance *allowance, uint64_t now) noexcept nogil:
    """What is in it, in the time that it takes; 0 where more was taken than there was."""
    cdef uint64_t paid = load_u64(&allowance.paid)
    cdef uint64_t ahead = paid - now if paid > now else 0
    return allowance.burst_ns - ahead if allowance.burst_ns > ahead else 0


cdef inline uint64_t empty_for(const Allowance *allowance, uint64_t now, uint64_t least_ns) noexcept nogil:
    """Nanoseconds until there is so much in it, which must not be more than its burst."""
    cdef uint64_t full_at = load_u64(&allowance.paid) + least_ns, until = now + allowance.burst_ns
    return full_at - until if full_at > until else 0


cdef inline void charge(Allowance *allowance, uint64_t now, double units) noexcept nogil:
    """Take so many, also where it has fewer: it is then empty for longer."""
    cdef uint64_t paid = load_u64(&allowance.paid)
    cdef uint64_t ns = <uint64_t>(units * allowance.unit_ns + 0.5)
    while not replace_u64(&allowance.paid, paid, max(paid, now) + ns):
        paid = load_u64(&allowance.paid)


cdef inline uint32_t take(Allowance *allowance, uint64_t now, uint32_t wanted) noexcept nogil:
    """Take as many of these as there are, and return how many."""
    cdef uint64_t paid
    cdef double room
    cdef uint32_t n
    if not is_limited(allowance):
        return wanted
    while True:
        paid = load_u64(&allowance.paid)
        room = <double>room_ns(allowance, now) / allowance.unit_ns + 0.001   # so that 999.9999 are 1000
        n = wanted if room >= wanted else <uint32_t>room
        if n == 0 or replace_u64(&allowance.paid, paid, max(paid, now) + <uint64_t>(n * allowance.unit_ns + 0.5)):
            return n
