"""`--forward learn`: an Ethernet switch. IEEE 802.1Q, clauses 8.6 to 8.8.

Sources are learned. A frame goes to the port of its destination, or, where that is not known or a group, to all ports
but its own: one read, as many copies. What a frame begins with is read once; that copy is decided on, and delivered.
No frame waits for room with its sender: a slow guest holds up nobody (forward/backlog).
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u64
from fastvhost.dataplane.drop_reason cimport (
    ISOLATED,
    NO_EGRESS,
    RESERVED_ADDRESS,
    SAME_PORT,
    SPOOFED_SOURCE,
    VLAN_DENIED,
)
from fastvhost.dataplane.forward.exits cimport add_exit, delivery_with
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.learner cimport EVERYBODY, NOT_ON, PLACED, Learner
from fastvhost.dataplane.forward.members cimport Members, reaches
from fastvhost.dataplane.forward.mirror cimport add_mirrors
from fastvhost.dataplane.forward.starts cimport read_starts
from fastvhost.dataplane.forward.storm cimport calm
from fastvhost.dataplane.forward.tags cimport classify, plan_tagged
from fastvhost.dataplane.forward.vlan cimport NO_VLAN, is_member
from fastvhost.dataplane.frame cimport Delivery, Frame, Start
from fastvhost.dataplane.mac_learn cimport learn
from fastvhost.dataplane.mac_table cimport (
    KEY_ANY_VLAN,
    LEARN_BUSY,
    NOBODY,
    MacTable,
    destination_key,
    find,
    is_group,
    is_link_local,
    source_key,
    vlan_of,
)
from fastvhost.dataplane.tally cimport Tally, count_drops

cdef enum:
    UNTAGGED = 0


cdef void plan_learn(Lane *lane) noexcept nogil:
    """An exit for each egress that gets frames of this visit."""
    cdef Learner *learner = lane.learner
    cdef uint32_t n = lane.due - lane.first
    lane.n_exits = 0
    learner.mirrored = learner.members.n_mirrored != 0
    learner.alike = read_starts(learner.starts, &lane.burst, lane.first, n)
    if learner.members.tagging:
        classify(lane, n)
        plan_tagged(lane, n, choose(lane, n, True))
    elif choose(lane, n, False) and learner.to[0] < learner.members.n:
        add_exit(
            lane, learner.to[0], frames_of(lane, &lane.burst.frames[lane.first], learner.starts, n), True, False
        )
    else:
        sort(lane, n)
    if learner.mirrored:
        add_mirrors(lane, frames_of(lane, &lane.burst.frames[lane.first], learner.starts, n))


cdef inline Delivery frames_of(const Lane *lane, const Frame *frames, const Start *starts, uint32_t n) noexcept nogil:
    return delivery_with(lane, frames, starts, n, &lane.burst.heads[0], False)


cdef inline bint choose(Lane *lane, uint32_t n, bint tagging) noexcept nogil:
    """Learn where n frames come from, and find where each goes to. Whether all go the same way.

    tagging: their VLANs are noted.
    """
    cdef Learner *learner = lane.learner
    cdef MacTable *table = learner.members.table
    cdef uint64_t source, destination, generation
    cdef bint one_way = True
    cdef uint32_t i, vlan = UNTAGGED
    generation = load_acquire_u64(&table.generation)
    if generation != learner.generation:
        learner.source = learner.destination = 0
        learner.generation = generation
    for i in range(1 if learner.alike else n):
        if tagging:
            vlan = learner.vlans.ids[i]
            if vlan == NO_VLAN:
                learner.to[i], one_way = NOT_ON, False
                continue
        source = source_key(learner.starts[i].bytes, vlan)
        destination = destination_key(learner.starts[i].bytes, vlan)
        if source != learner.source and not admit(learner, source):
            learner.answer, learner.why, learner.destination = NOT_ON, SPOOFED_SOURCE, 0
        elif destination != learner.destination:
            learner.answer = port_for(learner, destination)
            # That nobody has it is not kept: it may be learned any time.
            learner.destination = 0 if learner.answer == EVERYBODY and not is_group(destination) else destination
        if learner.answer == NOT_ON:
            count_drops(&lane.ingress.rx[lane.pair], learner.why, n if learner.alike else 1)
        learner.to[i] = <unsigned short>learner.answer
        one_way &= learner.answer == learner.to[0]
    if learner.alike and learner.to[0] >= learner.members.n:
        for i in range(1, n):
            learner.to[i] = learner.to[0]
    return one_way


cdef bint admit(Learner *learner, uint64_t source) noexcept nogil:
    """Learn a source that is not the last one. False: its port's guard drops the frame."""
    cdef MacTable *table = learner.members.table
    learner.source = 0
    if learner.members.at[learner.number].guarded and find(table, source | KEY_ANY_VLAN) != learner.number:
        return False
    if learn(table, source, learner.number) < LEARN_BUSY:
        learner.source = source
    return True


cdef uint32_t port_for(Learner *learner, uint64_t destination) noexcept nogil:
    """A port's number, or To; `why` where that is NOT_ON."""
    cdef const Members *members = learner.members
    cdef uint32_t port
    if is_group(destination):
        learner.why = RESERVED_ADDRESS
        return NOT_ON if is_link_local(destination) else EVERYBODY
    port = find(members.table, destination)
    if port == NOBODY:
        port = find(members.table, destination | KEY_ANY_VLAN)   # whose port is known, though it has not sent yet
    if port == learner.number:
        learner.why = SAME_PORT
        return NOT_ON
    if members.tagging and port < members.n and not is_member(&members.at[port].vlans, vlan_of(destination)):
        learner.why = VLAN_DENIED
        return NOT_ON
    if port != NOBODY and not reaches(members, learner.number, port):
        learner.why = ISOLATED
        return NOT_ON
    return port


cdef void sort(Lane *lane, uint32_t n) noexcept nogil:
    """Frames by where they go: first those for everybody, then each port's own, in their order."""
    cdef Learner *learner = lane.learner
    cdef uint32_t i, begin, port, at
    calm(lane, n)
    at = put_together(lane, 0, EVERYBODY, 0, n)
    if at:
        for port in range(learner.members.n):
            if (
                port != learner.number and learner.members.at[port].port != NULL
                and reaches(learner.members, learner.number, port)
            ):
                add_exit(lane, port, frames_of(lane, learner.sorted_frames, learner.sorted_starts, at), False, True)
        count_copies(lane, at)
    for i in range(n):
        port = learner.to[i]
        if port == PLACED or port == NOT_ON:
            continue
        begin = at
        at = put_together(lane, at, port, i, n)
        add_exit(
            lane, port,
            frames_of(lane, &learner.sorted_frames[begin], &learner.sorted_starts[begin], at - begin), False, False,
        )


cdef void count_copies(const Lane *lane, uint32_t n) noexcept nogil:
    """n frames leave at all exits there are: what they come to beyond one delivery each."""
    cdef Tally *tally = &lane.ingress.rx[lane.pair]
    if lane.n_exits:
        tally.copies += <uint64_t>(lane.n_exits - 1) * n
    else:
        count_drops(tally, ISOLATED if lane.learner.members.at[lane.learner.number].group else NO_EGRESS, n)


cdef uint32_t put_together(Lane *lane, uint32_t at, uint32_t port, uint32_t first, uint32_t n) noexcept nogil:
    """Copy the frames from `first` on that go to this port to place `at` and behind it. Returns the next place."""
    cdef Learner *learner = lane.learner
    cdef uint32_t i
    for i in range(first, n):
        if learner.to[i] == port:
            learner.sorted_frames[at] = lane.burst.frames[lane.first + i]
            learner.sorted_starts[at] = learner.starts[0 if learner.alike else i]
            learner.to[i] = PLACED
            at += 1
    return at
