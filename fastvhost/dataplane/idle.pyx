"""What a worker does when a round found no frame: spin, nap, or sleep until a driver kicks. See idle.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport nanosleep, timespec

from fastvhost.abi.shared_memory cimport cpu_pause, full_fence, load_acquire_u32, store_release_u32
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.door cimport Gate
from fastvhost.dataplane.eventfd cimport POLLIN, drain_eventfd, pollfd, ppoll
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.police cimport rests_for
from fastvhost.dataplane.parking cimport MISSED_KICKS_LIMIT
from fastvhost.dataplane.port cimport LOOK_AGAIN, NOTHING_TO_WAIT_FOR
from fastvhost.dataplane.roster cimport look_at

# Adaptive: spin as long as a driver may take to answer, nap as long as a pause in traffic may last, then sleep.
# Waking costs tens of microseconds here, so a short pause may cost 200 microseconds of spinning.
cdef enum:
    FREE_ROUNDS = 16             # rounds without a frame before the clock is looked at: under load, it never is
    SPIN_NS = 200 * 1000
    AWAKE_NS = 2 * 1000 * 1000
    FIRST_NAP_NS = 5 * 1000
    # Asleep, a worker looks up now and then: that tells which drivers do not kick although they were asked to. First
    # sleeps are short, an eighth of the time since the last frame: a CPU that halted just now wakes twice as fast.
    FIRST_SLEEP_NS = 1000 * 1000
    SLEEP_NS = 20 * 1000 * 1000
    # Where a driver does not kick, or frames wait for buffers, the worker naps instead of sleeping. After TIRED_NS
    # without a frame, each nap takes LONG_NAP_NS.
    TIRED_NS = 1000 * 1000 * 1000
    LONG_NAP_NS = 1000 * 1000


cdef void rest(Idle *idle, Gate *gate, Roster *roster) noexcept nogil:
    """One rest after a round without a frame."""
    cdef uint64_t now, idle_ns, nap_ns
    idle.empty_rounds += 1
    if idle.policy == IDLE_POLL or (idle.policy == IDLE_ADAPTIVE and idle.empty_rounds < FREE_ROUNDS):
        cpu_pause()
        return
    now = monotonic_ns()
    if idle.empty_rounds <= FREE_ROUNDS:
        idle.since = now
        idle.empty_rounds = FREE_ROUNDS + 1
    idle_ns = now - idle.since
    if idle.policy == IDLE_ADAPTIVE and idle_ns < <uint64_t>SPIN_NS:
        cpu_pause()
        return
    nap_ns = LONG_NAP_NS if idle_ns > <uint64_t>TIRED_NS else min(idle.nap_ns, FIRST_NAP_NS + (idle_ns >> 4))
    if (idle.policy == IDLE_ADAPTIVE and idle_ns < <uint64_t>AWAKE_NS) or frames_wait(idle, roster):
        nap(asleep_for(roster, nap_ns))
    else:
        sleep_until_kicked(idle, gate, roster, nap_ns, asleep_for(roster, sleep_for(idle_ns)))


cdef uint64_t sleep_for(uint64_t idle_ns) noexcept nogil:
    cdef uint64_t least = FIRST_SLEEP_NS, most = SLEEP_NS
    return min(most, max(least, idle_ns >> 3))


cdef void nap(uint64_t ns) noexcept nogil:
    cdef timespec time
    time.tv_sec, time.tv_nsec = 0, <long>ns
    nanosleep(&time, NULL)


cdef bint frames_wait(const Idle *idle, const Roster *roster) noexcept nogil:
    """Whether frames wait for receive buffers. New buffers would not end a sleep: it waits for transmitqs only.

    Frames of a lane at its limit do not count: how long they wait is known (asleep_for).
    """
    cdef uint32_t i
    cdef Lane *lane
    for i in range(roster.n_awake):
        lane = roster.lanes[i]
        if lane.first < lane.burst.n_frames and not rests_for(lane):
            return True
    return idle.backlogs.n_open != 0


cdef uint64_t asleep_for(const Roster *roster, uint64_t ns) noexcept nogil:
    """At most so long, and no longer than until a lane that is at its limit may go on."""
    cdef uint64_t rest
    cdef uint32_t i
    for i in range(roster.n_awake):
        rest = rests_for(roster.lanes[i])
        if rest:
            ns = min(ns, rest)
    return ns


cdef void sleep_until_kicked(
    Idle *idle, Gate *gate, Roster *roster, uint64_t nap_ns, uint64_t sleep_ns
) noexcept nogil:
    """Sleep until a driver kicks, or a change is posted, for sleep_ns at most; nap_ns where a driver does not kick."""
    cdef Lane *lane
    cdef uint32_t i, n = roster.n_awake
    cdef bint kicked, work = False
    cdef timespec timeout
    cdef int fd
    idle.fds[0] = pollfd(gate.wake_fd, POLLIN, 0)
    for i in range(n):
        lane = roster.lanes[i]
        if rests_for(lane):
            idle.fds[i + 1] = pollfd(-1, 0, 0)   # its driver could only add to what waits
            continue
        look_at(roster, lane)
        kicked = False
        fd = lane.ingress.wait_fd(lane.ingress, lane.pair, &kicked)
        if kicked:
            lane.missed_kicks = 0
        idle.fds[i + 1] = pollfd(max(fd, -1), POLLIN, 0)  # -1: poll leaves it out
        if fd == NOTHING_TO_WAIT_FOR:
            continue
        if fd == LOOK_AGAIN or lane.missed_kicks >= MISSED_KICKS_LIMIT:
            sleep_ns = min(sleep_ns, nap_ns)
        lane.ingress.want_kicks(lane.ingress, lane.pair, True)
    # Parked lanes have asked for kicks already, and were looked at once more (parking).
    idle.fds[n + 1] = pollfd(roster.epoll_fd if n < roster.n_lanes else -1, POLLIN, 0)
    if roster.n_dozing:
        sleep_ns = min(sleep_ns, <uint64_t>LONG_NAP_NS)
    store_release_u32(&gate.asleep, 1)
    full_fence()  # kicks are asked for and `asleep` is set before the queues are looked at once more
    for i in range(n):
        if not idle.fds[i + 1].events:
            continue
        lane = roster.lanes[i]
        look_at(roster, lane)
        work = work or lane.ingress.has_silent_work(lane.ingress, lane.pair)
    look_at(roster, NULL)
    if not work and not load_acquire_u32(&gate.asked) and not load_acquire_u32(&gate.stopping):
        idle.sleeps += 1
        timeout.tv_sec, timeout.tv_nsec = 0, <long>sleep_ns
        ppoll(idle.fds, n + <uint32_t>MORE_FDS, &timeout, NULL)
        learn(idle, roster)
    roster.recall_at = 0
    store_release_u32(&gate.asleep, 0)
    drain_eventfd(gate.wake_fd)
    for i in range(n):
        lane = roster.lanes[i]
        look_at(roster, lane)
        lane.ingress.want_kicks(lane.ingress, lane.pair, False)
    look_at(roster, NULL)


cdef void learn(const Idle *idle, Roster *roster) noexcept nogil:
    """Count frames that came without a kick that was asked for; after some the driver counts as one that never kicks.

    Not after the first: the driver may be between its frame and its kick.
    """
    cdef Lane *lane
    cdef uint32_t i
    for i in range(roster.n_awake):
        if not idle.fds[i + 1].events:
            continue
        lane = roster.lanes[i]
        look_at(roster, lane)
        if idle.fds[i + 1].revents:
            lane.missed_kicks = 0
        elif lane.ingress.has_silent_work(lane.ingress, lane.pair):
            lane.missed_kicks += 1
    look_at(roster, NULL)
