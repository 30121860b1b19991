"""The headers of a frame, for all who look into one. See ether.h."""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from "fastvhost/dataplane/ether.h" nogil:
    const uint32_t ETHER_ADDRESSES_BYTES, VLAN_TAG_BYTES
    const uint32_t ETHERTYPE_IPV4, ETHERTYPE_VLAN, ETHERTYPE_IPV6
    const uint32_t PROTOCOL_TCP, PROTOCOL_UDP
    const uint32_t IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, TCP_HEADER_BYTES, UDP_HEADER_BYTES
    const uint32_t TCP_CHECKSUM_AT, UDP_CHECKSUM_AT, IPV4_FRAGMENT
    uint32_t get16(const uint8_t *at)
    void put16(uint8_t *at, uint32_t value)
    uint32_t ether_payload(const uint8_t *frame, uint32_t bytes, uint32_t *at)
