"""What a virtio-net header asks for, and which features let it. Virtio 1.2, sections 5.1.3 and 5.1.6.2."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.abi.virtio_net cimport (
    ETHER_HEADER_BYTES,
    NET_F_CSUM,
    NET_F_GUEST_CSUM,
    NET_F_GUEST_ECN,
    NET_F_GUEST_TSO4,
    NET_F_GUEST_TSO6,
    NET_F_GUEST_USO4,
    NET_F_GUEST_USO6,
    NET_F_HOST_ECN,
    NET_F_HOST_TSO4,
    NET_F_HOST_TSO6,
    NET_F_HOST_USO,
    NET_HDR_F_NEEDS_CSUM,
    NET_HDR_GSO_ACCECN,
    NET_HDR_GSO_ECN,
    NET_HDR_GSO_NONE,
    NET_HDR_GSO_TCPV4,
    NET_HDR_GSO_TCPV6,
    NET_HDR_GSO_UDP_L4,
    feature_mask,
)
from fastvhost.dataplane.debug cimport check
from fastvhost.dataplane.ether cimport UDP_HEADER_BYTES
from fastvhost.dataplane.frame cimport (
    BURST,
    NEED_CSUM,
    NEED_ECN,
    NEED_TSO4,
    NEED_TSO6,
    NEED_USO,
    FrameBurst,
    Frame,
    Head,
)

cdef enum:
    CSUM_BYTES = 2
    MOST_TCP_HEADER_BYTES = 60
    # A limit of ours, below every path MTU: no frame becomes more than 1024 pieces.
    LEAST_GSO_SIZE = 64


# All that an interface of this host takes and sends, which has no features of its own.
cdef enum:
    HOST_NEEDS = NEED_CSUM | NEED_TSO4 | NEED_TSO6 | NEED_ECN


# What frames may need where all of these features are acknowledged.
cdef struct FeatureNeed:
    uint64_t features
    uint32_t need


cdef inline uint32_t needs_of(uint64_t features, const FeatureNeed *rows, uint32_t n) noexcept nogil:
    """All that the features allow. The first row is the checksum, without which no other counts (section 5.1.3.1)."""
    cdef uint32_t needs = 0, i
    if not rows[0].features & ~features:
        for i in range(n):
            needs |= rows[i].need if not rows[i].features & ~features else 0
    return needs


cdef inline uint32_t needs_allowed(uint64_t features) noexcept nogil:
    """What the frames of a driver that acknowledged these features may need."""
    cdef FeatureNeed *rows = [
        FeatureNeed(feature_mask(NET_F_CSUM), NEED_CSUM),
        FeatureNeed(feature_mask(NET_F_HOST_TSO4), NEED_TSO4),
        FeatureNeed(feature_mask(NET_F_HOST_TSO6), NEED_TSO6),
        FeatureNeed(feature_mask(NET_F_HOST_ECN), NEED_ECN),
        FeatureNeed(feature_mask(NET_F_HOST_USO), NEED_USO),
    ]
    return needs_of(features, rows, 5)


cdef inline uint32_t needs_accepted(uint64_t features) noexcept nogil:
    """What frames may need that go to such a driver."""
    cdef FeatureNeed *rows = [
        FeatureNeed(feature_mask(NET_F_GUEST_CSUM), NEED_CSUM),
        FeatureNeed(feature_mask(NET_F_GUEST_TSO4), NEED_TSO4),
        FeatureNeed(feature_mask(NET_F_GUEST_TSO6), NEED_TSO6),
        FeatureNeed(feature_mask(NET_F_GUEST_ECN), NEED_ECN),
        # The header does not say which of the two it is.
        FeatureNeed(feature_mask(NET_F_GUEST_USO4) | feature_mask(NET_F_GUEST_USO6), NEED_USO),
    ]
    return needs_of(features, rows, 5)


cdef inline bint check_head(Head *head, uint32_t frame_bytes, uint32_t allowed) noexcept nogil:
    """Whether a header that was read is one that its driver may send, before a frame of so many bytes.

    What a receiver has no use for is taken out of it: other flags, and fields that nothing refers to. hdr_len is a
    hint (section 5.1.6.2), which nobody must rely on.
    """
    cdef uint32_t needs = 0, kind
    head.net.num_buffers = 1
    head.net.flags &= NET_HDR_F_NEEDS_CSUM
    if head.net.flags:
        needs = NEED_CSUM
        # Whoever fills the sum in writes it behind what a switch decides on: its sender chooses what it is.
        if head.net.csum_start < <uint16_t>ETHER_HEADER_BYTES:
            return False
        if <uint32_t>head.net.csum_start + head.net.csum_offset + CSUM_BYTES > frame_bytes:
            return False
    else:
        head.net.csum_start = head.net.csum_offset = 0
    if head.net.gso_type != NET_HDR_GSO_NONE:
        kind = head.net.gso_type & ~<uint32_t>NET_HDR_GSO_ECN
        if kind == NET_HDR_GSO_TCPV4:
            needs |= NEED_TSO4
        elif kind == NET_HDR_GSO_TCPV6:
            needs |= NEED_TSO6
        elif kind == NET_HDR_GSO_UDP_L4:
            needs |= NEED_USO
        else:
            return False
        if head.net.gso_type & NET_HDR_GSO_ECN:
            needs |= NEED_ECN
        if not needs & NEED_CSUM or head.net.gso_size < LEAST_GSO_SIZE:
            return False
        # A kernel that gets the frame has this much of it in one block of memory, and more than a page is hard to find.
        if (
            head.net.hdr_len < head.net.csum_start + UDP_HEADER_BYTES
            or head.net.hdr_len > head.net.csum_start + MOST_TCP_HEADER_BYTES
        ):
            head.net.hdr_len = <uint16_t>min(head.net.csum_start + <uint32_t>MOST_TCP_HEADER_BYTES, 0xffffU)
    else:
        head.net.gso_size = 0
    if head.net.hdr_len > frame_bytes:
        head.net.hdr_len = 0
    head.needs = needs
    return not needs & ~allowed


cdef inline bint give_head(FrameBurst *burst, Frame *frame, uint32_t frame_bytes, uint32_t allowed) noexcept nogil:
    """Whether what was read into next_head() is allowed; then it is this frame's, if it asks for anything."""
    cdef Head *head = next_head(burst)
    if not (head.net.flags & NET_HDR_F_NEEDS_CSUM or head.net.gso_type != NET_HDR_GSO_NONE):
        return True
    if not check_head(head, frame_bytes, allowed):
        return False
    burst.n_heads += 1
    burst.needs |= head.needs
    frame.head = <uint16_t>burst.n_heads
    return True


cdef inline bint give_host_head(FrameBurst *burst, Frame *frame, uint32_t frame_bytes) noexcept nogil:
    """The same for what a kernel of this host wrote, which may know more than virtio 1.2.

    TCP with Accurate ECN counts in three flags, one of which is CWR; all pieces have them as the super-frame has them
    (RFC 9768). Linux 6.18 says nothing of that in its header. With VIRTIO_NET_HDR_GSO_ACCECN, proposed for
    include/uapi/linux/virtio_net.h in 2026, a kernel does. Both mean here: not GSO_ECN, so CWR stays (cut.number_tcp).
    """
    cdef Head *head = next_head(burst)
    if head.net.gso_type & NET_HDR_GSO_ACCECN:
        head.net.gso_type &= ~<uint8_t>(NET_HDR_GSO_ACCECN | NET_HDR_GSO_ECN)
    return give_head(burst, frame, frame_bytes, HOST_NEEDS | NEED_USO)


# The header that most frames have: a checksum is to be filled in, and no more. What follows its first two bytes are the
# fields hdr_len, gso_size, csum_start, csum_offset, eight bytes that are read at once.
cdef inline uint32_t bytes_with_sum(uint64_t fields) noexcept nogil:
    """How long the frame is at least that holds the checksum; longer than any, where it begins before the payload."""
    cdef uint32_t start = <uint32_t>(fields >> 32 & 0xffff)
    return start + <uint32_t>(fields >> 48) + CSUM_BYTES if start >= <uint32_t>ETHER_HEADER_BYTES else 0xffffffffU


cdef inline void write_sum_head(Head *head, uint64_t fields) noexcept nogil:
    """Two stores: csum_start, the flag, and zeros between them; csum_offset, num_buffers of 1, needs."""
    cdef uint64_t words = (fields & <uint64_t>0xffff << 32) << 16 | NET_HDR_F_NEEDS_CSUM
    cdef uint64_t rest = fields >> 48 | <uint64_t>1 << 16 | <uint64_t>NEED_CSUM << 32
    memcpy(head, &words, 8)
    memcpy(<uint8_t *>head + 8, &rest, 8)


cdef inline Head *next_head(FrameBurst *burst) noexcept nogil:
    """Room for one that is read from elsewhere."""
    check(burst.n_heads < BURST, "offload: a burst has a head for each of its frames")
    return &burst.heads[burst.n_heads + 1]
