"""The virtio-net header and the feature bits the packet path asks for. Virtio 1.2, sections 5.1.3, 5.1.6 and 6."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

# Header bytes by layout, section 5.1.6: the legacy one ends before num_buffers.
cdef enum:
    NET_HDR_LEGACY_BYTES = 10
    NET_HDR_BYTES = 12
    NET_HDR_GSO_TYPE_OFFSET = 1
    NET_HDR_NUM_BUFFERS_OFFSET = 10

    NET_HDR_F_NEEDS_CSUM = 1
    NET_HDR_GSO_NONE = 0
    NET_HDR_GSO_TCPV4 = 1
    NET_HDR_GSO_TCPV6 = 4
    NET_HDR_GSO_UDP_L4 = 5     # datagrams of one flow, one behind the other (Linux UDP_SEGMENT)
    NET_HDR_GSO_ECN = 0x80     # a bit beside the type
    NET_HDR_GSO_ACCECN = 0x10  # another one, not in a specification yet: see give_host_head


# struct virtio_net_hdr of section 5.1.6, little-endian; a legacy one ends before num_buffers.
cdef struct NetHeader:
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset
    uint16_t num_buffers


# Ethernet needs its two addresses and its type; the largest frame is 65535 bytes of IP behind them (section 5.1.6.3).
cdef enum:
    ETHER_HEADER_BYTES = 14
    MAX_FRAME_BYTES = 65535 + 14

cdef enum FeatureBit:
    NET_F_CSUM = 0
    NET_F_GUEST_CSUM = 1
    NET_F_GUEST_TSO4 = 7
    NET_F_GUEST_TSO6 = 8
    NET_F_GUEST_ECN = 9
    NET_F_HOST_TSO4 = 11
    NET_F_HOST_TSO6 = 12
    NET_F_HOST_ECN = 13
    NET_F_MRG_RXBUF = 15
    RING_F_INDIRECT_DESC = 28
    RING_F_EVENT_IDX = 29
    F_VERSION_1 = 32
    F_RING_PACKED = 34
    F_IN_ORDER = 35
    NET_F_GUEST_USO4 = 54
    NET_F_GUEST_USO6 = 55
    NET_F_HOST_USO = 56


cdef inline bint has_feature(uint64_t features, FeatureBit bit) noexcept nogil:
    return (features >> <int>bit) & 1


cdef inline uint64_t feature_mask(FeatureBit bit) noexcept nogil:
    return <uint64_t>1 << <int>bit
