/* Finds checksums that a sender's stack left to a network card, where nothing says so. RFC 1071, 768, 9293, 8200.
 *
 * A frame of a neighbouring stack (a veth, a bridge) reaches XDP and libpcap with only the sum of the pseudo-header in
 * the checksum field, and nothing with it that says so. That sum is the sign. A finished checksum that happens to equal
 * it comes out as it was when it is computed again, since both would make the segment add up.
 */
#ifndef FASTVHOST_UNFINISHED_H
#define FASTVHOST_UNFINISHED_H

#include "fastvhost/dataplane/ether.h"
#include "fastvhost/dataplane/offload/checksum.h"

/* Where the checksum is that is to be computed: of bytes start to end, its field offset bytes behind start. */
struct unfinished_sum {
    uint32_t start;
    uint32_t end;
    uint32_t offset;
};

/* Looks at a frame of TCP or UDP in IP in Ethernet, with up to two VLAN tags. Whether its checksum is unfinished. */
static inline int find_unfinished(const uint8_t *frame, uint32_t bytes, struct unfinished_sum *found)
{
    uint32_t ip, start, end, offset, type = ether_payload(frame, bytes, &ip);
    uint8_t protocol, ending[4] = {0};
    const uint8_t *addresses;
    uint16_t stored, sign;
    if (type == ETHERTYPE_IPV4) {
        start = ip + 4 * (frame[ip] & 15);
        end = ip + get16(frame + ip + 2);
        protocol = frame[ip + 9];
        addresses = frame + ip + 12;
        /* A fragment has no checksum of its own. */
        if (start < ip + IPV4_HEADER_BYTES || get16(frame + ip + 6) & IPV4_FRAGMENT)
            return 0;
    } else if (type == ETHERTYPE_IPV6 && bytes >= ip + IPV6_HEADER_BYTES) {
        start = ip + IPV6_HEADER_BYTES;
        end = start + get16(frame + ip + 4);
        protocol = frame[ip + 6];
        addresses = frame + ip + 8;
    } else {
        return 0;
    }
    if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP)
        return 0;
    if (end > bytes || end < start + (protocol == PROTOCOL_TCP ? TCP_HEADER_BYTES : UDP_HEADER_BYTES))
        return 0;
    offset = protocol == PROTOCOL_TCP ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT;
    memcpy(&stored, frame + start + offset, 2);
    ending[1] = protocol;
    ending[2] = (uint8_t)((end - start) >> 8);
    ending[3] = (uint8_t)(end - start);
    sign = (uint16_t)~fold(add_bytes(ending, 4, add_bytes(addresses, type == ETHERTYPE_IPV4 ? 8 : 32, 0)));
    found->start = start;
    found->end = end;
    found->offset = offset;
    return stored == sign;
}

/* Fills it in. */
static inline void finish_checksum(uint8_t *frame, const struct unfinished_sum *found)
{
    uint16_t sum = fold_transport(add_bytes(frame + found->start, found->end - found->start, 0));
    memcpy(frame + found->start + found->offset, &sum, 2);
}

#endif
