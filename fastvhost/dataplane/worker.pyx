"""Workers: a thread that polls its lanes without the GIL until it is stopped.

A round visits each lane whose turn it is, and charges its port with the time (roster.pxd says by which rules).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u32, load_u64, store_release_u32
from fastvhost.dataplane.door cimport Door, enter, is_called, leave, stand, wake
from fastvhost.dataplane.eventfd cimport EPOLL_CLOEXEC, epoll_create1, pollfd
from fastvhost.dataplane.forward.backlog cimport discard_backlogs, drain_some, make_backlogs
from fastvhost.dataplane.forward.forward cimport forward_burst, is_between_exits
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.frame cimport BURST
from fastvhost.dataplane.idle cimport IDLE_ADAPTIVE, IDLE_INTERRUPT, IDLE_POLL, MORE_FDS, rest
from fastvhost.dataplane.notify cimport discard_signals, make_thread_signals
from fastvhost.dataplane.offload.cut cimport discard_cutter, make_cutter
from fastvhost.dataplane.parking cimport bring_back, is_to_park, let_all_in, let_in, park, stays_parked
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.roster cimport (
    LEAD_US,
    LONE_FRAME_SHIFT,
    QUIET_AFTER,
    QUIET_SHARE,
    Roster,
    Sender,
    call_up,
    clear,
    discard,
    enlist,
    join,
    line_up,
    make_room,
    set_clock,
    start_afresh,
)
from fastvhost.dataplane.virtio_device cimport enter_thread, leave_thread, make_scratch
from fastvhost.dataplane.wire cimport Wire

from fastvhost.dataplane import notify

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long value)
    const int PR_SET_TIMERSLACK

cdef extern from "<sys/syscall.h>" nogil:
    const long SYS_gettid

cdef extern from "<unistd.h>" nogil:
    long syscall(long number)

cdef uint64_t NOBODY = <uint64_t>-1
_POLICIES = {"poll": IDLE_POLL, "adaptive": IDLE_ADAPTIVE, "interrupt": IDLE_INTERRUPT}


cdef uint32_t visit(Roster *roster) noexcept nogil:
    """One round: a burst for each lane whose turn it is. Returns the frames moved."""
    cdef uint64_t limit = roster.least + roster.lead, least = NOBODY, began
    cdef uint32_t moved = 0, now, i = 0, _turn, turns = roster.n_quiet
    cdef Sender *sender
    cdef Lane *lane
    began = roster.now = roster.read_ticks()
    if roster.n_awake < roster.n_lanes and roster.now >= roster.recall_at:
        bring_back(roster)
    if roster.n_active:
        turns = min(turns, 1 + turns // QUIET_SHARE)
    while i < roster.n_active:
        sender = &roster.senders[roster.active[i]]
        moved += take_turns(roster, sender, limit, &least)
        if sender.n_busy:
            i += 1
        else:
            roster.n_active -= 1
            roster.active[i] = roster.active[roster.n_active]
    for _turn in range(turns):
        lane = call_up(roster)
        sender = &roster.senders[lane.sender]
        catch_up(roster, sender)
        roster.at = lane
        # The time that its port's busy lanes used just now must not keep quiet lanes from their turn.
        now = serve(roster, lane) if sender.used <= limit + roster.most and may_move(lane) else 0
        if now:
            moved += now
            least = min(least, sender.used)
            lane.empty_rounds = 0
            join(roster, lane)
        elif is_to_park(roster, lane):
            park(roster, lane)
        else:
            line_up(roster, lane)
    roster.at = NULL
    if moved:
        roster.worked += roster.now - began
    roster.least = least if least != NOBODY else highest(roster)
    return moved


cdef inline uint32_t take_turns(Roster *roster, Sender *sender, uint64_t limit, uint64_t *least) noexcept nogil:
    """Visit a sender's busy lanes, one after the other, until each had a visit or the port had its share of time."""
    cdef uint32_t moved = 0, now, left = sender.n_busy
    cdef Lane *lane
    catch_up(roster, sender)
    while left and sender.used <= limit:
        left -= 1
        if sender.next >= sender.n_busy:
            sender.next = 0
        lane = sender.busy[sender.next]
        now = serve(roster, lane)
        moved += now
        lane.empty_rounds = 0 if now else lane.empty_rounds + 1
        if lane.empty_rounds < QUIET_AFTER:
            sender.next += 1
        else:
            sender.n_busy -= 1
            sender.busy[sender.next] = sender.busy[sender.n_busy]
            lane.quiet_since = roster.now
            line_up(roster, lane)
    if moved or left:    # it has traffic, or was not looked at
        least[0] = min(least[0], sender.used)
    return moved


cdef inline uint32_t serve(Roster *roster, Lane *lane) noexcept nogil:
    """One visit, charged to the lane's port."""
    cdef Sender *sender = &roster.senders[lane.sender]
    cdef uint32_t moved
    cdef uint64_t now, took
    roster.at = lane
    moved = forward_burst(lane)
    now = roster.read_ticks()
    took = min(now - roster.now, roster.most << LONE_FRAME_SHIFT if moved == 1 else roster.most)
    sender.used += took
    sender.spent += took if moved else 0
    roster.now = now
    return moved


cdef inline bint may_move(Lane *lane) noexcept nogil:
    """Whether there is anything to do. Touches fewer cache lines than receive_burst."""
    return lane.first < lane.burst.n_frames or lane.ingress.may_receive(lane.ingress, lane.pair)


cdef inline void catch_up(const Roster *roster, Sender *sender) noexcept nogil:
    """Raise an account to LEAD below the least one: a port without frames for a moment may save up that much."""
    if sender.used + roster.lead < roster.least:
        sender.used = roster.least - roster.lead


cdef uint64_t highest(const Roster *roster) noexcept nogil:
    """Where no port has traffic, raise all accounts to the highest one."""
    cdef uint64_t used = roster.least
    cdef uint32_t i
    for i in range(roster.n_senders):
        used = max(used, roster.senders[i].used)
    return used


cdef void end_visits(Roster *roster) noexcept nogil:
    """Finish visits that stopped between two of their exits, before ports change: else what some egresses have already
    would come again.

    Nothing of them waits for room, so each call of forward_burst gets nearer to the end.
    """
    cdef uint32_t i
    for i in range(roster.n_lanes):
        while is_between_exits(roster.lanes[i]):
            forward_burst(roster.lanes[i])


cdef class Worker:
    """Polls lanes, one burst each in turn, until stopped."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.wires, self.shares = [], []
        self.roster.epoll_fd = -1
        self.idle.fds = <pollfd *>malloc(MORE_FDS * sizeof(pollfd))  # share_wire makes room for the lanes'
        self.scratch, self.cutter, self.backlogs = make_scratch(), make_cutter(), make_backlogs()
        if self.idle.fds == NULL or self.scratch == NULL or self.cutter == NULL or self.backlogs == NULL:
            raise MemoryError
        self.idle.backlogs = self.draining.backlogs = self.backlogs
        self.draining.cutter = self.cutter

    def __init__(
        self, Door door not None, str name="worker", *, idle: str = "poll", uint32_t nap_us=50
    ) -> None:
        if self.door is not None:
            raise ValueError(f"{self.name}: a worker is made once")
        if idle not in _POLICIES:
            raise ValueError(f"{name}: idle {idle!r} is none of {', '.join(_POLICIES)}")
        self.idle.policy, self.idle.nap_ns = _POLICIES[idle], nap_us * 1000
        set_clock(&self.roster)
        self.gate = door.add(self)
        self.roster.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.door, self.name = door, name

    cdef int require_idle(self, str what) except -1:
        """Raise unless the worker was made, does not run and is not closed."""
        if self.running:
            raise ValueError(f"{self.name} runs; {what}")
        if self.gate == NULL:
            raise ValueError(f"worker {self.name} was never made, or is closed; make another one")
        return 0

    def __dealloc__(self) -> None:
        self.end_epoll()
        discard(&self.roster)
        discard_signals(&self.signals)
        free(self.parts)
        free(self.idle.fds)
        free(self.scratch)
        discard_cutter(self.cutter)
        discard_backlogs(self.backlogs)

    cdef void end_epoll(self) noexcept:
        if self.roster.epoll_fd >= 0:
            close(self.roster.epoll_fd)
        self.roster.epoll_fd = -1

    def add_wire(
        self, Port ingress not None, Port egress, *, bint hold, uint64_t hold_timeout_ms, uint32_t shares=1,
        bridge=None
    ) -> Wire:
        wire = Wire(ingress, egress, hold=hold, hold_timeout_ms=hold_timeout_ms, shares=shares, bridge=bridge)
        self.share_wire(wire, 0)
        return wire

    def share_wire(self, Wire wire not None, uint32_t share) -> None:
        cdef Part *parts
        cdef pollfd *fds
        self.require_idle("wires are added before it starts")
        make_room(&self.roster, wire.n_lanes)
        fds = <pollfd *>realloc(self.idle.fds, (self.roster.room + MORE_FDS) * sizeof(pollfd))
        if fds == NULL:
            raise MemoryError
        self.idle.fds = fds
        first = wire.bridge is not None and self not in wire.bridge.workers
        parts = <Part *>realloc(self.parts, (self.n_parts + 1) * sizeof(Part))
        if parts == NULL:
            raise MemoryError
        self.parts = parts
        wire.claim(share, self, self.door)
        self.wires.append(wire)
        self.shares.append(share)
        self.parts[self.n_parts] = Part(wire.lanes, wire.n_lanes, share, wire.shares)
        self.n_parts += 1
        for port in (wire.ingress, wire.egress):
            if port is not None and (<Port>port).entrance is not None:
                self.door.owns(self.gate, (<Port>port).entrance)
        for port in wire.bridge.ports if first else ():
            if port is not None and (<Port>port).entrance is not None:
                self.door.delivers(self.gate, (<Port>port).entrance)

    cdef void enlist_lanes(self) noexcept nogil:
        """Fill the roster with the lanes to visit from now on: open ones whose receiveq belongs to this worker.

        Which worker has a receiveq depends on the active pairs of its port alone, and while those change all workers
        that own lanes towards this port are at the door. So a receiveq is never delivered to by two.
        """
        cdef uint32_t i, pair, active
        cdef Part *part
        cdef Lane *lane
        clear(&self.roster)
        for i in range(self.n_parts):
            part = &self.parts[i]
            for pair in range(part.n_lanes):
                lane = &part.lanes[pair]
                active = part.n_lanes if lane.egress == NULL else max(lane.egress.active_pairs, 1)
                if pair % active % part.shares != part.share:
                    continue
                # Frames that wait in a lane whose queue was stopped must still be uncounted.
                if lane.ingress.is_open(lane.ingress, pair) or lane.first < lane.burst.n_frames:
                    lane.cutter, lane.backlogs = self.cutter, self.backlogs
                    if lane.parked_by != NULL and not stays_parked(&self.roster, lane):
                        let_in(&self.roster, lane)
                    enlist(&self.roster, i, lane)

    cdef uint32_t round(self) noexcept nogil:
        """One round over the roster. Returns the frames moved."""
        cdef uint32_t moved = 0
        if self.backlogs.n_open:
            moved = drain_some(self.backlogs, &self.roster, &self.draining)
        moved += visit(&self.roster)
        self.n_rounds += 1
        self.n_busy += moved != 0
        return moved

    cdef void loop(self) noexcept nogil:
        prctl(PR_SET_TIMERSLACK, 1)  # ns: so that naps are not longer than asked for
        self.thread = <int>syscall(SYS_gettid)
        enter_thread(&self.signals, self.scratch)
        enter(self.gate)
        self.enlist_lanes()
        while not load_acquire_u32(&self.gate.stopping):
            if is_called(self.gate):
                end_visits(&self.roster)
                stand(self.gate)
                if load_acquire_u32(&self.gate.stopping):
                    break  # it may have left a change half-way
                self.enlist_lanes()
            if self.round():
                self.idle.empty_rounds = 0
            else:
                rest(&self.idle, self.gate, &self.roster)
        else:
            end_visits(&self.roster)
        let_all_in(&self.roster)
        leave_thread()
        self.thread = 0
        discard_signals(&self.signals)
        leave(self.gate)

    def prepare(self) -> str:
        if self.running or self.signals.context:
            return ""
        return notify.why_not(make_thread_signals(&self.signals)) or notify.prepare()

    def run(self) -> None:
        self.require_idle("it runs once at a time")
        self.occupied = True
        with nogil:
            self.loop()
        self.occupied = False

    def step(self) -> int:
        cdef uint32_t moved
        self.require_idle("step is for a worker that does not")
        self.occupied = True
        with nogil:
            enter(self.gate)
            self.enlist_lanes()
            start_afresh(&self.roster)
            moved = self.round()
            end_visits(&self.roster)
            leave(self.gate)
        self.occupied = False
        return moved

    def stop(self) -> None:
        if self.gate != NULL:
            store_release_u32(&self.gate.stopping, 1)
            full_fence()  # pairs with the one before the worker sleeps
            wake(self.gate)

    def close(self) -> None:
        if self.running:
            raise ValueError(f"{self.name} runs; stop it and wait for its thread first")
        if self.gate != NULL:
            let_all_in(&self.roster)
            self.end_epoll()
            self.door.remove(self.gate)
            self.gate = NULL
        for wire, share in zip(self.wires, self.shares):
            (<Wire>wire).unclaim(share, self)
        self.n_parts = 0
        clear(&self.roster)
        self.wires, self.shares = [], []

    @property
    def running(self) -> bool:
        return self.occupied

    @property
    def rounds(self) -> int:
        return self.n_rounds

    @property
    def lanes(self) -> int:
        return self.roster.n_lanes

    @property
    def sleeps(self) -> int:
        return self.idle.sleeps

    @property
    def busy_rounds(self) -> int:
        return self.n_busy

    @property
    def busy_seconds(self) -> float:
        # A clock of constant rate, whose ticks in LEAD_US are known. load_u64: its thread writes it.
        return <double>load_u64(&self.roster.worked) / <double>self.roster.lead * (LEAD_US / 1e6)

    @property
    def loads(self) -> list[tuple[Wire, int, float]]:
        cdef double seconds = LEAD_US / 1e6 / <double>self.roster.lead
        return [
            (wire, share, load_u64(&self.roster.senders[i].spent) * seconds)
            for i, (wire, share) in enumerate(zip(self.wires, self.shares))
        ]

    @property
    def waiting(self) -> int:
        cdef uint32_t pair, n
        cdef const Lane *lane
        cdef uint64_t frames = self.backlogs.n_frames
        for wire, share in zip(self.wires, self.shares):
            # A wire with several shares counts once, at the worker that has its first share.
            for pair in range((<Wire>wire).n_lanes if share == 0 else 0):
                lane = &(<Wire>wire).lanes[pair]
                n = lane.burst.n_frames - lane.first
                frames += n if n <= <uint32_t>BURST else 0  # read while the worker writes both
        return frames
