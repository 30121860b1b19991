"""Tags of frames: which VLAN a frame is in, and how it leaves. IEEE 802.1Q, clauses 6.9 and 8.6.

A frame is in the VLAN of its tag, else in the native one of its port. It leaves without a tag where the VLAN is the
native one of that port, else with one. Tags come and go in what a frame begins with, which is in our own memory: the
payload is where it was. Frames of a flood are planned twice at the most, with a tag and without.

What leaves without a tag has none at all. A second tag that came to light would be the first one for whoever gets the
frame, and its sender would have chosen the VLAN.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from fastvhost.abi.shared_memory cimport read_once_u16_anywhere
from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES
from fastvhost.dataplane.drop_reason cimport NO_EGRESS, VLAN_DENIED
from fastvhost.dataplane.ether cimport ETHER_ADDRESSES_BYTES, ETHERTYPE_VLAN, VLAN_TAG_BYTES, get16, put16
from fastvhost.dataplane.forward.exits cimport add_exit, delivery_with
from fastvhost.dataplane.forward.lane cimport Lane
from fastvhost.dataplane.forward.learner cimport EVERYBODY, NOT_ON, PLACED, Learner
from fastvhost.dataplane.forward.members cimport Member, reaches
from fastvhost.dataplane.forward.storm cimport calm
from fastvhost.dataplane.forward.vlan cimport (
    NO_VLAN,
    POPPED,
    PRIORITY,
    PUSHED,
    TAGGED,
    UNTAGGED,
    Changed,
    PortVlans,
    is_member,
)
from fastvhost.dataplane.frame cimport START_BYTES, TAGGED_BYTES, Delivery, Frame, Head, Segment, Start
from fastvhost.dataplane.tally cimport Tally, count_drops

cdef enum:
    PRIORITY_BITS = 0xf000     # of a tag: PCP and DEI
    VLAN_BITS = 0x0fff


cdef void classify(Lane *lane, uint32_t n) noexcept nogil:
    """Note the VLANs that n frames are in, or NO_VLAN of those that are dropped; once where all frames are alike."""
    cdef Learner *learner = lane.learner
    cdef uint32_t i
    if lane.burst.needs:
        move_heads(lane)
        tell_apart(learner, n)   # what they ask for is not alike
    for i in range(1 if learner.alike else n):
        if not note_vlan(lane, i):
            learner.vlans.ids[i] = NO_VLAN
            count_drops(&lane.ingress.rx[lane.pair], VLAN_DENIED, n if learner.alike else 1)


cdef void tell_apart(Learner *learner, uint32_t n) noexcept nogil:
    """What is noted of the first frame is noted of each one, if that is so for all."""
    cdef uint32_t i
    if not learner.alike:
        return
    learner.alike = False
    for i in range(1, n):
        learner.starts[i], learner.to[i] = learner.starts[0], learner.to[0]
        learner.vlans.ids[i], learner.vlans.forms[i] = learner.vlans.ids[0], learner.vlans.forms[0]


cdef bint note_vlan(Lane *lane, uint32_t i) noexcept nogil:
    """Which VLAN a frame is in, and how it says so. False: in none that its port is a member of."""
    cdef Learner *learner = lane.learner
    cdef const PortVlans *port = &learner.members.at[learner.number].vlans
    cdef const Start *start = &learner.starts[i]
    cdef const Frame *frame = &lane.burst.frames[lane.first + i]
    cdef uint32_t vlan = port.native, form = UNTAGGED, header_bytes = ETHER_HEADER_BYTES
    if get16(start.bytes + ETHER_ADDRESSES_BYTES) == ETHERTYPE_VLAN:
        if start.n < <uint32_t>START_BYTES:
            return False
        header_bytes, form = <uint32_t>TAGGED_BYTES, PRIORITY
        if get16(start.bytes + ETHER_HEADER_BYTES) & VLAN_BITS:
            vlan, form = get16(start.bytes + ETHER_HEADER_BYTES) & VLAN_BITS, TAGGED
            if not port.tagged:
                return False
    if vlan == NO_VLAN or not is_member(port, vlan):
        return False
    if frame.head and not is_behind(&lane.burst.heads[frame.head], header_bytes):
        return False
    learner.vlans.ids[i], learner.vlans.forms[i] = <uint16_t>vlan, <uint8_t>form
    return True


cdef inline bint is_behind(const Head *head, uint32_t header_bytes) noexcept nogil:
    """Whether the checksum that a head asks for cannot be written over addresses or tag, wherever a tag comes or goes.

    Its sender chooses what the sum is, and so would choose the VLAN.
    """
    return head.net.csum_start >= header_bytes and head.net.csum_start <= 0xffff - VLAN_TAG_BYTES


cdef void move_heads(Lane *lane) noexcept nogil:
    """What the burst's heads are for frames with a tag more, and with one less."""
    cdef Head *heads = &lane.learner.vlans.heads[0]
    cdef uint32_t i
    cdef Head *head
    for i in range(lane.burst.n_heads + 1):
        heads[i] = heads[PUSHED + i] = heads[POPPED + i] = lane.burst.heads[i]
        head = &heads[PUSHED + i]
        head.net.csum_start += VLAN_TAG_BYTES
        head.net.hdr_len = <uint16_t>min(head.net.hdr_len + VLAN_TAG_BYTES, 0xffffU) if head.net.hdr_len else 0
        head = &heads[POPPED + i]
        head.net.csum_start -= VLAN_TAG_BYTES
        head.net.hdr_len -= <uint16_t>min(<uint32_t>head.net.hdr_len, VLAN_TAG_BYTES)


cdef void plan_tagged(Lane *lane, uint32_t n, bint one_way) noexcept nogil:
    """Exits for n frames, each in the form that its egress wants. one_way: all have the same egress."""
    cdef Learner *learner = lane.learner
    cdef uint32_t i, begin, at = 0, bare = 0, port = learner.to[0]
    cdef const Frame *frames = &lane.burst.frames[lane.first]
    cdef Changed changed
    lane.gained = 0
    if learner.alike and one_way and port < learner.members.n:
        if stays(learner, 0, port):
            add_exit(lane, port, frames_of(lane, frames, learner.starts, n, False), True, False)
            return
        # A mirror gets frames as they arrived.
        if not learner.mirrored and change_alike(lane, n, port):
            add_exit(lane, port, frames_of(lane, frames, learner.sorted_starts, n, False), True, False)
            return
    tell_apart(learner, n)
    calm(lane, n)
    for i in range(n):
        if learner.to[i] == EVERYBODY:
            flood(lane, i, n, &at, &bare)
    for i in range(n):
        port = learner.to[i]
        if port == PLACED or port == NOT_ON:
            continue
        begin = at
        changed = put_together(lane, at, port, i, n)
        at += changed.n
        add_changed_exit(
            lane, port, &learner.sorted_frames[begin], &learner.sorted_starts[begin], changed.n, changed.uneven, False
        )


cdef bint change_alike(Lane *lane, uint32_t n, uint32_t port) noexcept nogil:
    """Change the tags of n frames that begin alike where they stand in the burst, as nearly all bursts allow.

    False: nothing was changed, since they would not end up alike.
    """
    cdef Learner *learner = lane.learner
    cdef Frame *frames = &lane.burst.frames[lane.first]
    cdef Changed first = Changed(0, False)
    # Those are in one piece each.
    if lane.first + n > lane.burst.n_headed:
        return False
    if not add_changed(lane, 0, learner.sorted_frames, learner.sorted_starts, &first, leaves_tagged(learner, 0, port)):
        return False
    lane.gained = <int32_t>(learner.sorted_frames[0].bytes - frames[0].bytes)
    if lane.gained < 0 and not go_on_alike(frames, n, &learner.sorted_starts[0]):
        lane.gained = 0
        return False
    if lane.gained:
        lengthen(frames, n, lane.gained)
    return True


# Both loops take four frames at a time: one at a time costs two to four instructions a frame more.


cdef inline bint go_on_alike(const Frame *frame, uint32_t n, const Start *popped) noexcept nogil:
    """Whether n frames have, behind the tag, the type that was read of the first one. Each is as long as that.

    A look only: what is written is what was read.
    """
    cdef const Frame *end = frame + n
    cdef uint16_t type
    cdef uint32_t differs = 0
    memcpy(&type, popped.bytes + ETHER_ADDRESSES_BYTES, 2)
    while end - frame >= 4:
        differs |= behind_tag(frame) ^ type
        differs |= behind_tag(frame + 1) ^ type
        differs |= behind_tag(frame + 2) ^ type
        differs |= behind_tag(frame + 3) ^ type
        frame += 4
    while frame != end:
        differs |= behind_tag(frame) ^ type
        frame += 1
    return not differs


cdef inline uint32_t behind_tag(const Frame *frame) noexcept nogil:
    return read_once_u16_anywhere(frame.data + START_BYTES)


cdef inline void lengthen(Frame *frame, uint32_t n, int32_t bytes) noexcept nogil:
    """Let n frames begin so many bytes before."""
    cdef Frame *end = frame + n
    while end - frame >= 4:
        begin_before(frame, bytes)
        begin_before(frame + 1, bytes)
        begin_before(frame + 2, bytes)
        begin_before(frame + 3, bytes)
        frame += 4
    while frame != end:
        begin_before(frame, bytes)
        frame += 1


cdef inline void begin_before(Frame *frame, int32_t bytes) noexcept nogil:
    frame.data -= bytes
    frame.bytes += bytes


cdef inline bint leaves_tagged(const Learner *learner, uint32_t i, uint32_t port) noexcept nogil:
    return learner.vlans.ids[i] != learner.members.at[port].vlans.native


cdef inline bint stays(const Learner *learner, uint32_t i, uint32_t port) noexcept nogil:
    """Whether a frame leaves as it arrived."""
    return learner.vlans.forms[i] == (TAGGED if leaves_tagged(learner, i, port) else UNTAGGED)


cdef inline void add_changed_exit(
    Lane *lane, uint32_t port, const Frame *frames, const Start *starts, uint32_t n, bint uneven, bint flooded
) noexcept nogil:
    """Of frames that were put together; none: no exit."""
    if n:
        add_exit(lane, port, frames_of(lane, frames, starts, n, uneven), False, flooded)


cdef inline Delivery frames_of(
    Lane *lane, const Frame *frames, const Start *starts, uint32_t n, bint uneven
) noexcept nogil:
    cdef const Head *heads = &lane.learner.vlans.heads[0] if lane.burst.needs else &lane.burst.heads[0]
    return delivery_with(lane, frames, starts, n, heads, uneven)


cdef Changed put_together(Lane *lane, uint32_t at, uint32_t port, uint32_t first, uint32_t n) noexcept nogil:
    """Copy the frames from `first` on that go to this port to place `at` and those behind it."""
    cdef Learner *learner = lane.learner
    cdef Changed changed = Changed(0, False)
    cdef uint32_t i
    for i in range(first, n):
        if learner.to[i] != port:
            continue
        learner.to[i] = PLACED
        if not add_changed(
            lane, i, &learner.sorted_frames[at], &learner.sorted_starts[at], &changed, leaves_tagged(learner, i, port)
        ):
            count_drops(&lane.ingress.rx[lane.pair], VLAN_DENIED, 1)
    return changed


cdef void flood(Lane *lane, uint32_t first, uint32_t n, uint32_t *at, uint32_t *bare) noexcept nogil:
    """An exit at each member of a VLAN for its frames from `first` on that go to all.

    at, bare: the next free places, among sorted frames and among those without a tag.
    """
    cdef Learner *learner = lane.learner
    cdef Frame *with_tag = &learner.sorted_frames[at[0]]
    cdef Frame *without = &learner.vlans.frames[bare[0]]
    cdef Start *starts_with = &learner.sorted_starts[at[0]]
    cdef Start *starts_without = &learner.vlans.starts[bare[0]]
    cdef uint32_t i, port, vlan = learner.vlans.ids[first], n_tagged = 0, n_untagged = 0, deliveries
    cdef Changed tagged = Changed(0, False), untagged = Changed(0, False)
    cdef Tally *tally = &lane.ingress.rx[lane.pair]
    for port in range(learner.members.n):
        if gets_floods(learner, port, vlan):
            if learner.members.at[port].vlans.native == vlan:
                n_untagged += 1
            else:
                n_tagged += 1
    for i in range(first, n):
        if learner.to[i] != EVERYBODY or learner.vlans.ids[i] != vlan:
            continue
        learner.to[i] = PLACED
        deliveries = 0
        if n_tagged and add_changed(lane, i, with_tag, starts_with, &tagged, True):
            deliveries += n_tagged
        if n_untagged and add_changed(lane, i, without, starts_without, &untagged, False):
            deliveries += n_untagged
        if deliveries:
            tally.copies += deliveries - 1
        else:
            count_drops(tally, VLAN_DENIED if n_untagged else NO_EGRESS, 1)
    for port in range(learner.members.n):
        if not gets_floods(learner, port, vlan):
            continue
        if learner.members.at[port].vlans.native == vlan:
            add_changed_exit(lane, port, without, starts_without, untagged.n, untagged.uneven, True)
        else:
            add_changed_exit(lane, port, with_tag, starts_with, tagged.n, tagged.uneven, True)
    at[0] += tagged.n
    bare[0] += untagged.n


cdef inline bint gets_floods(const Learner *learner, uint32_t port, uint32_t vlan) noexcept nogil:
    cdef const Member *member = &learner.members.at[port]
    return (
        port != learner.number and member.port != NULL and is_member(&member.vlans, vlan)
        and reaches(learner.members, learner.number, port)
    )


cdef bint add_changed(
    Lane *lane, uint32_t i, Frame *frames, Start *starts, Changed *changed, bint tagged
) noexcept nogil:
    """Put a frame behind those that are there, with a tag or without. False: it must not leave without one."""
    cdef Frame *frame = &frames[changed.n]
    cdef Start *start = &starts[changed.n]
    cdef uint32_t form = lane.learner.vlans.forms[i], vlan = lane.learner.vlans.ids[i]
    frame[0], start[0] = lane.burst.frames[lane.first + i], lane.learner.starts[i]
    if tagged and form == UNTAGGED:
        push(lane, i, frame, start, vlan)
    elif tagged and form == PRIORITY:
        put16(start.bytes + ETHER_HEADER_BYTES, get16(start.bytes + ETHER_HEADER_BYTES) & PRIORITY_BITS | vlan)
    elif not tagged and form != UNTAGGED and not pop(lane, frame, start):
        return False
    changed.uneven |= start.n != start.skip
    changed.n += 1
    return True


cdef void push(const Lane *lane, uint32_t i, Frame *frame, Start *start, uint32_t vlan) noexcept nogil:
    """Give a frame a tag. Where its virtio-net header is in front of it, it begins within that, and starts cover it."""
    frame.head += PUSHED if frame.head else 0
    memcpy(start.bytes + START_BYTES, start.bytes + ETHER_ADDRESSES_BYTES, 2)
    put16(start.bytes + ETHER_ADDRESSES_BYTES, ETHERTYPE_VLAN)
    put16(start.bytes + ETHER_HEADER_BYTES, vlan)
    start.n += VLAN_TAG_BYTES
    frame.bytes += VLAN_TAG_BYTES
    if lane.first + i < lane.burst.n_headed:
        frame.data -= VLAN_TAG_BYTES
        start.skip = start.n


cdef bint pop(const Lane *lane, Frame *frame, Start *start) noexcept nogil:
    """Take the tag off a frame. False: that leaves no frame, or one with a tag. What follows is read once, too."""
    cdef uint32_t ethertype
    if frame.bytes < <uint32_t>TAGGED_BYTES:
        return False
    read_type(start.bytes + ETHER_ADDRESSES_BYTES, frame, lane.burst.segments)
    ethertype = get16(start.bytes + ETHER_ADDRESSES_BYTES)
    if ethertype == ETHERTYPE_VLAN:
        return False
    frame.head += POPPED if frame.head else 0
    frame.bytes -= VLAN_TAG_BYTES
    start.n = start.skip = ETHER_HEADER_BYTES
    if frame.n_segments == 1:
        frame.data += VLAN_TAG_BYTES
    else:
        start.skip = <uint32_t>TAGGED_BYTES
    return True


cdef void read_type(uint8_t *to, const Frame *frame, const Segment *segments) noexcept nogil:
    """The EtherType behind a tag."""
    cdef uint32_t at = <uint32_t>TAGGED_BYTES - 2, k
    cdef const Segment *segment
    if frame.n_segments == 1:
        memcpy(to, frame.data + at, 2)
        return
    segment = &segments[frame.first_segment]
    for k in range(2):
        while at >= segment.bytes:
            at -= segment.bytes
            segment += 1
        to[k] = segment.data[at]
        at += 1
