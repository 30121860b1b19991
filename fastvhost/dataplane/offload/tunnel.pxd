"""A super-frame inside a datagram of another one: VXLAN (RFC 7348) and Geneve (RFC 8926).

A virtio-net header has no words for it: a kernel's packet socket gives such a frame the type of the inner one, and a
kernel that is given it so drops it. So nobody takes them whole, and each piece gets the outer headers, too.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastvhost.dataplane.ether cimport (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PROTOCOL_UDP,
    UDP_HEADER_BYTES,
    ether_payload,
    get16,
    put16,
)

cdef extern from "fastvhost/dataplane/offload/checksum.h" nogil:
    uint64_t add_bytes(const uint8_t *at, uint32_t n, uint64_t sum)
    uint16_t fold(uint64_t sum)
    uint16_t fold_transport(uint64_t sum)

cdef enum:
    TUNNEL_BYTES = 8         # VXLAN's header, and Geneve's without options
    GENEVE_PORT = 6081
    GENEVE_OPTIONS = 0x3f    # of its first byte: how many words of four bytes


# Where the outer headers are. udp_at 0: there are none.
cdef struct Tunnel:
    uint32_t ip_at
    uint32_t udp_at
    bint ipv6


cdef inline bint in_datagram(
    const uint8_t *frame, uint32_t bytes, uint32_t transport_at, Tunnel *tunnel
) noexcept nogil:
    """Whether what begins at transport_at lies in a datagram, and is not that. `bytes` of the frame can be read."""
    cdef uint32_t ip = 0, ethertype = ether_payload(frame, bytes, &ip)
    tunnel.ip_at, tunnel.udp_at, tunnel.ipv6 = ip, 0, ethertype == ETHERTYPE_IPV6
    if ethertype == ETHERTYPE_IPV4 and frame[ip + 9] == PROTOCOL_UDP:
        tunnel.udp_at = ip + 4 * (frame[ip] & 15)
    elif ethertype == ETHERTYPE_IPV6 and frame[ip + 6] == PROTOCOL_UDP:
        tunnel.udp_at = ip + IPV6_HEADER_BYTES
    if transport_at <= tunnel.udp_at:
        tunnel.udp_at = 0
    return tunnel.udp_at != 0


cdef inline uint32_t inner_frame(
    const uint8_t *frame, uint32_t there, uint32_t frame_bytes, const Tunnel *tunnel
) noexcept nogil:
    """Where the inner frame's Ethernet header begins; 0: the outer headers are not as they should be.

    `there` bytes of the frame can be read.
    """
    cdef const uint8_t *ip = frame + tunnel.ip_at
    cdef const uint8_t *udp = frame + tunnel.udp_at
    cdef uint32_t inner = tunnel.udp_at + UDP_HEADER_BYTES + TUNNEL_BYTES
    if inner > there or tunnel.udp_at < tunnel.ip_at + IPV4_HEADER_BYTES:
        return 0
    if get16(udp + 4) != frame_bytes - tunnel.udp_at:
        return 0
    if get16(ip + 4) != frame_bytes - tunnel.udp_at if tunnel.ipv6 else get16(ip + 2) != frame_bytes - tunnel.ip_at:
        return 0
    if get16(udp + 2) == GENEVE_PORT:
        inner += 4 * (udp[UDP_HEADER_BYTES] & <uint32_t>GENEVE_OPTIONS)
    return inner if inner < there else 0


cdef inline void write_outer(
    uint8_t *to, const Tunnel *tunnel, uint32_t bytes, uint32_t number, uint32_t transport_at, uint32_t checksum_at
) noexcept nogil:
    """The outer headers of the number-th piece, a frame of so many bytes, when its inner ones are written.

    A sum of its own is made of headers alone: what comes from transport_at on adds up to the inverse of what stands
    at its checksum now, the sum of its pseudo-header, once that is filled in.
    """
    cdef uint8_t *ip = to + tunnel.ip_at
    cdef uint8_t *udp = to + tunnel.udp_at
    cdef uint8_t ending[4]
    cdef uint16_t checksum
    cdef uint64_t sum
    put16(udp + 4, bytes - tunnel.udp_at)
    if tunnel.ipv6:
        put16(ip + 4, bytes - tunnel.udp_at)
        sum = add_bytes(ip + 8, 32, 0)
    else:
        put16(ip + 2, bytes - tunnel.ip_at)
        put16(ip + 4, get16(ip + 4) + number)
        put16(ip + 10, 0)
        checksum = fold(add_bytes(ip, tunnel.udp_at - tunnel.ip_at, 0))
        memcpy(ip + 10, &checksum, 2)
        sum = add_bytes(ip + 12, 8, 0)
    if not get16(udp + 6):
        return
    put16(udp + 6, 0)
    ending[0], ending[1] = 0, PROTOCOL_UDP
    put16(&ending[2], bytes - tunnel.udp_at)
    memcpy(&checksum, to + checksum_at, 2)
    sum = add_bytes(ending, 4, sum) + <uint16_t>~checksum
    checksum = fold_transport(add_bytes(udp, transport_at - tunnel.udp_at, sum))
    memcpy(udp + 6, &checksum, 2)
