"""The virtio-net header and the feature bits the packet path asks for. Virtio 1.2, sections 5.1.3, 5.1.6 and 6."""

from libc.stdint cimport uint64_t

# Header bytes by layout, section 5.1.6: the legacy one ends before num_buffers.
cdef enum:
    NET_HDR_LEGACY_BYTES = 10
    NET_HDR_BYTES = 12
    NET_HDR_GSO_TYPE_OFFSET = 1
    NET_HDR_NUM_BUFFERS_OFFSET = 10

    NET_HDR_F_NEEDS_CSUM = 1

# Ethernet needs its two addresses and its type; the largest frame is 65535 bytes of IP behind them (section 5.1.6.3).
cdef enum:
    ETHER_HEADER_BYTES = 14
    MAX_FRAME_BYTES = 65535 + 14

cdef enum FeatureBit:
    NET_F_MRG_RXBUF = 15
    RING_F_INDIRECT_DESC = 28
    RING_F_EVENT_IDX = 29
    F_VERSION_1 = 32
    F_RING_PACKED = 34
    F_IN_ORDER = 35


cdef inline bint has_feature(uint64_t features, FeatureBit bit) noexcept nogil:
    return (features >> <int>bit) & 1
