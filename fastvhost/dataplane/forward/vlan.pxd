"""The VLANs of a switch's ports, and how frames of one visit are tagged. IEEE 802.1Q.

A VLAN's number is 0 to 4094; 0 is that of untagged frames at ports without a native VLAN of their own.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastvhost.dataplane.frame cimport BURST, Frame, Head, Start


cdef enum:
    VLAN_WORDS = 4096 >> 6   # of a bit for each number
    NO_VLAN = 4095           # no VLAN has this number: a frame that is dropped, a port without a native VLAN


# What a port's keys come to. Changed only while all workers that read it are at the door.
cdef struct PortVlans:
    uint32_t native          # of frames without a tag: those that arrive, and those that leave; or NO_VLAN
    bint tagged              # frames with a tag may arrive
    uint64_t members[VLAN_WORDS]


# How a frame arrived.
cdef enum Form:
    UNTAGGED
    TAGGED
    PRIORITY                 # with a tag that names no VLAN (VLAN 0), only a priority (IEEE 802.1Q, 3.184)


cdef enum:
    # Where heads begin of frames with a tag more, and with one less.
    PUSHED = BURST + 1
    POPPED = 2 * (BURST + 1)


# Frames of the visit under way, by their place in it.
cdef struct FrameVlans:
    uint16_t ids[BURST]
    uint8_t forms[BURST]
    # Flooded frames as they leave without a tag; with one, they are sorted like others.
    Frame frames[BURST]
    Start starts[BURST]
    Head heads[3 * (BURST + 1)]


# How many frames there are for one exit, in the form that it wants.
cdef struct Changed:
    uint32_t n
    bint uneven              # see Delivery


cdef inline bint is_member(const PortVlans *port, uint32_t vlan) noexcept nogil:
    return port.members[vlan >> 6] >> (vlan & 63) & 1
