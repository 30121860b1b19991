"""What a worker does when a round found no frame: spin, nap, or sleep until a driver kicks. See idle.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec

from fastvhost.abi.shared_memory cimport cpu_pause, full_fence, load_acquire_u32, store_release_u32
from fastvhost.dataplane.door cimport Gate, drain_eventfd
from fastvhost.dataplane.port cimport LOOK_AGAIN, NOTHING_TO_WAIT_FOR, PortFace

cdef extern from "<poll.h>" nogil:
    int poll(pollfd *fds, unsigned long n, int timeout_ms)
    const short POLLIN

# Adaptive: spin as long as a driver may take to answer, nap as long as a pause in traffic may last, then sleep.
# Waking costs tens of microseconds here, so spinning for 200 of them is what a short pause may cost.
cdef enum:
    SPIN_NS = 200 * 1000
    AWAKE_NS = 2 * 1000 * 1000
    FIRST_NAP_NS = 5 * 1000
    # Asleep, a worker still looks up now and then; with a driver that never kicks, often.
    SLEEP_MS = 200
    SLEEP_UNKICKED_MS = 1


cdef uint64_t monotonic_ns() noexcept nogil:
    cdef timespec clock
    clock_gettime(CLOCK_MONOTONIC, &clock)
    return <uint64_t>clock.tv_sec * 1000000000 + <uint64_t>clock.tv_nsec


cdef void rest(Idle *idle, Gate *gate, Lane **lanes, uint32_t n_lanes) noexcept nogil:
    """One rest after a round without a frame; Idle.since goes back to 0 with the next frame, by whoever saw it."""
    cdef uint64_t now, idle_ns, nap_ns
    cdef timespec nap
    if idle.policy == IDLE_POLL:
        cpu_pause()
        return
    now = monotonic_ns()
    if idle.since == 0:
        idle.since = now
    idle_ns = now - idle.since
    if idle.policy == IDLE_ADAPTIVE and idle_ns < SPIN_NS:
        cpu_pause()
    elif (idle.policy == IDLE_ADAPTIVE and idle_ns < AWAKE_NS) or frames_wait(lanes, n_lanes):
        nap_ns = min(idle.nap_ns, FIRST_NAP_NS + (idle_ns >> 4))
        nap.tv_sec, nap.tv_nsec = 0, <long>nap_ns
        nanosleep(&nap, NULL)
    else:
        sleep_until_kicked(idle, gate, lanes, n_lanes)


cdef bint frames_wait(Lane **lanes, uint32_t n_lanes) noexcept nogil:
    """Frames held back wait for receive buffers, not for a kick of the transmitq."""
    cdef uint32_t i
    for i in range(n_lanes):
        if lanes[i].first < lanes[i].burst.n_frames:
            return True
    return False


cdef void sleep_until_kicked(Idle *idle, Gate *gate, Lane **lanes, uint32_t n_lanes) noexcept nogil:
    cdef PortFace *port
    cdef uint32_t i, n = 1
    cdef int fd, timeout_ms = SLEEP_MS
    cdef bint work = False
    idle.fds[0] = pollfd(gate.wake_fd, POLLIN, 0)
    for i in range(n_lanes):
        port = lanes[i].ingress
        fd = port.wait_fd(port, lanes[i].pair)
        if fd == LOOK_AGAIN:
            timeout_ms = SLEEP_UNKICKED_MS
        elif fd >= 0:
            idle.fds[n] = pollfd(fd, POLLIN, 0)
            n += 1
        if fd != NOTHING_TO_WAIT_FOR:
            port.want_kicks(port, lanes[i].pair, True)
    store_release_u32(&gate.asleep, 1)
    full_fence()  # kicks are asked for, and control knows that we sleep, before we look once more
    for i in range(n_lanes):
        port = lanes[i].ingress
        work = work or port.has_work(port, lanes[i].pair)
    if not work and not load_acquire_u32(&gate.asked) & 1 and not load_acquire_u32(&gate.stopping):
        idle.sleeps += 1
        poll(idle.fds, n, timeout_ms)
    store_release_u32(&gate.asleep, 0)
    drain_eventfd(gate.wake_fd)
    for i in range(n_lanes):
        port = lanes[i].ingress
        port.want_kicks(port, lanes[i].pair, False)
