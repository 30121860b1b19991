"""What one lane of an Ethernet switch found out last, and where its visit under way goes."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastvhost.dataplane.drop_reason cimport DropReason
from fastvhost.dataplane.forward.members cimport Members
from fastvhost.dataplane.forward.starts cimport Splicer
from fastvhost.dataplane.forward.vlan cimport FrameVlans
from fastvhost.dataplane.frame cimport BURST, Frame, Start


cdef enum To:
    EVERYBODY = 0xffff       # as NOBODY of mac_table: who has the address is not known
    NOT_ON = 0xfffe          # dropped
    PLACED = 0xfffd          # it has its exit


cdef struct Learner:
    const Members *members
    uint32_t number          # of the ingress
    # The last frame's look-ups, good as long as the table's generation is what it was before them; 0: none.
    uint64_t generation
    uint64_t source
    uint64_t destination
    uint32_t answer          # the destination's port, or To
    DropReason why           # of NOT_ON
    # the frames of the visit under way
    bint mirrored            # some port has a mirror
    Start starts[BURST]      # by frame
    bint alike               # all are starts[0], the only one that was written
    uint16_t to[BURST]       # a port's number, or To
    Frame sorted_frames[BURST]
    Start sorted_starts[BURST]
    FrameVlans vlans         # where a port has VLANs
    Splicer splicer
