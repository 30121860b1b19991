"""What every ring format gives: its functions, and the state they share. Virtio 1.2, sections 2.7 and 2.8.

take       resolves available chains to host memory, in order; they are outstanding from then on. A bad chain breaks
           the ring if it is the first one; after good ones it ends the take, and is the first one of a later take.
           The budget of a visit ends a take as well: what is taken has VISIT_PIECES pieces at most, or is one
           chain. A broken ring gives nothing
untake     undoes the take of the last n chains
complete   stages outstanding chains as used, in the order in which they were taken
           Both refuse more than is outstanding: they write nothing then, and break the ring (RING_MISCOUNTED). So no
           mistake of a caller makes a ring write beyond what its driver handed over
publish    makes what is staged visible to the driver, once a burst; returns whether the driver wants a notification
has_work   whether there is an available chain
want_kicks asks the driver for available buffer notifications, or tells it that they are not needed
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.abi.virtio_ring cimport virtq_desc
from fastvhost.dataplane.frame cimport MAX_SEGMENTS, VISIT_PIECES, Chain, Done, Segment
from fastvhost.dataplane.guest_memory cimport Region, RegionTable, in_region
from fastvhost.dataplane.journal cimport Journal


cdef enum RingStatus:
    RING_OK
    RING_AVAIL_JUMP              # 2.7.6.1: no more chains can be available and outstanding than it has entries
    RING_HEAD_BEYOND_QUEUE       # 2.7.6: an available entry is an index into the descriptor table
    RING_NEXT_BEYOND_TABLE       # 2.7.5: next is an index into the same table
    RING_LOOP                    # 2.7.5.2, 2.8.6: a chain uses each descriptor once; a loop has no end
    RING_ADDRESS_OUTSIDE_MEMORY  # 2.7.5, 2.8.4: a buffer lies in memory that the front-end shares
    RING_READABLE_IN_RECEIVEQ    # 2.7.5.1, 2.8.3: a device must not write to a readable buffer
    RING_WRITABLE_IN_TRANSMITQ   # 2.7.5.1, 2.8.3: a device should not read a writable buffer
    RING_INDIRECT_NOT_NEGOTIATED  # 2.7.5.3.1, 2.8.7
    RING_INDIRECT_NESTED         # 2.7.5.3.1, 2.8.7: a table has no reference to another; NEXT does not go with INDIRECT
    RING_INDIRECT_TABLE_SIZE     # 2.7.5.3, 2.8.7: a table consists of whole descriptors
    RING_RECEIVE_CHAIN_TOO_SHORT  # 5.1.6.3.1: without MRG_RXBUF the header lies in one chain with its frame
    RING_CHAIN_PIECES            # a limit of ours: MAX_SEGMENTS
    RING_OUTSIDE_MEMORY          # the front-end's new memory does not contain the ring
    RING_MISCOUNTED              # a defect of ours, see above
    N_RING_STATUS


# A chain's segments do not fit into what is left of the burst's, or of the budget: no fault of the ring.
cdef enum:
    NO_SEGMENTS_LEFT = N_RING_STATUS


cdef struct Ring:
    # the format's functions
    uint32_t (*take)(
        Ring *ring, Chain *chains, uint32_t most, Segment *segments, uint32_t *n_segments
    ) noexcept nogil
    void (*untake)(Ring *ring, const Chain *chains, uint32_t n) noexcept nogil
    void (*complete)(Ring *ring, const Done *done, uint32_t n) noexcept nogil
    bint (*publish)(Ring *ring) noexcept nogil
    bint (*has_work)(const Ring *ring) noexcept nogil
    void (*want_kicks)(Ring *ring, bint wanted) noexcept nogil
    # set through the door
    uint8_t *descriptor_area
    uint8_t *driver_area       # available ring, or driver event suppression
    uint8_t *device_area       # used ring, or device event suppression
    const RegionTable *table
    uint16_t size
    uint16_t direction         # VIRTQ_DESC_F_WRITE for a receiveq, 0 for a transmitq: what each descriptor must say
    bint indirect
    bint event_idx
    Journal *journal           # where each batch is noted before it is written (packed); NULL: nowhere
    bint in_batches            # one used entry may stand for all that a complete stages: IN_ORDER, nothing written
    # written by its worker
    uint16_t next_avail        # where to look for the next available chain
    uint16_t known_avail       # the available index as last read (split): entries before it need no look at it
    uint16_t next_used         # where to put the next used chain
    uint16_t outstanding       # entries (split) or descriptors (packed) taken and not yet completed
    uint16_t published         # next_used as the driver knows it
    uint16_t staged            # descriptors completed and not yet published (packed)
    uint16_t first_flags       # of the first of them, held back until publish (packed)
    bint avail_wrap            # wrap counters (packed)
    bint used_wrap
    uint32_t hot_region        # the region of the last buffer, tried first
    uint32_t taken_in_pieces   # of the take under way: its chains of several segments (packed)
    uint32_t segments_before   # and the segments in the pool before it
    RingStatus status          # sticky: a ring that broke its rules stays stopped until it is set up again


cdef inline uint32_t places_for(uint32_t before, uint32_t lone) noexcept nogil:
    """How many segments the pool may hold after the next chain of a take, so that the budget of a visit is kept.

    before: segments in it when the take began; lone: chains of one piece each that were taken since. Those are not in
    the pool, but count as well. Not for the first chain of a take: that one may have what it needs.
    """
    return min(<uint32_t>MAX_SEGMENTS, before + VISIT_PIECES - lone)


cdef inline bint add_hot_segment(
    const Region *hot, uint64_t guest_addr, uint32_t length, Segment *segments, uint32_t *n_segments, uint32_t places
) noexcept nogil:
    """What add_segments does, without a call, for the usual buffer: not empty, and in the region of the one before."""
    cdef uint8_t *data = in_region(hot, guest_addr, length)
    if data == NULL or length == 0 or n_segments[0] >= places:
        return False
    segments[n_segments[0]] = Segment(data, length)
    n_segments[0] += 1
    return True


cdef int add_segments(
    Ring *ring, uint64_t guest_addr, uint32_t length, Segment *segments, uint32_t *n_segments, uint32_t places
) noexcept nogil
cdef bint read_desc_anywhere(const RegionTable *table, uint64_t guest_addr, virtq_desc *d) noexcept nogil
cdef int check_indirect(const Ring *ring, const virtq_desc *d, bint inside_table) noexcept nogil
cdef void finish_chain(
    Chain *chain, const Segment *segments, uint32_t first, uint32_t *n_segments, uint64_t bytes
) noexcept nogil
cdef void stop_taking(Ring *ring, int status, uint32_t n_segments) noexcept nogil
cdef void check_chains(
    const Ring *ring, const Chain *chains, uint32_t n, const Segment *segments, uint32_t n_segments
) noexcept nogil
