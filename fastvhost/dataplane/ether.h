/* The Ethernet header of a frame: types, VLAN tags, and where what it carries begins. IEEE 802.3, 802.1Q.
 * And numbers of the headers behind it. RFC 791, 8200, 9293, 768. */
#ifndef FASTVHOST_ETHER_H
#define FASTVHOST_ETHER_H

#include <stdint.h>

enum {
    ETHER_ADDRESSES_BYTES = 12,
    VLAN_TAG_BYTES = 4,
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_VLAN = 0x8100,
    ETHERTYPE_IPV6 = 0x86dd,
    ETHERTYPE_SERVICE_VLAN = 0x88a8,
    MOST_VLAN_TAGS = 2,

    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    /* Without options and extension headers. */
    IPV4_HEADER_BYTES = 20,
    IPV6_HEADER_BYTES = 40,
    TCP_HEADER_BYTES = 20,
    UDP_HEADER_BYTES = 8,
    /* Where the checksum lies in a header. */
    TCP_CHECKSUM_AT = 16,
    UDP_CHECKSUM_AT = 6,
    /* In the 16 bits with an IPv4 fragment's offset: more fragments, or an offset. */
    IPV4_FRAGMENT = 0x3fff,
};

/* 16 bits in network byte order. */
static inline uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static inline void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* The EtherType behind up to two VLAN tags, and where what it announces begins. 0: the frame has more tags, or too few
 * bytes for an IP header. */
static inline uint32_t ether_payload(const uint8_t *frame, uint32_t bytes, uint32_t *at)
{
    uint32_t type, tags;
    *at = ETHER_ADDRESSES_BYTES + 2;
    for (tags = 0; bytes >= *at + IPV4_HEADER_BYTES; tags++) {
        type = get16(frame + *at - 2);
        if (type != ETHERTYPE_VLAN && type != ETHERTYPE_SERVICE_VLAN)
            return type;
        if (tags == MOST_VLAN_TAGS)
            break;
        *at += VLAN_TAG_BYTES;
    }
    return 0;
}

#endif
