/* One entry of the forwarding table, two words of eight bytes, and the hash that says where it may stand.
 *
 * key:    bit 0 is set, so that no key is 0; bits 4 to 15: VLAN; bits 16 to 63: the address as it lies in a frame, its
 *         first byte lowest. So a key takes two instructions from a header, and nothing is swapped.
 * value:  bits 0 to 15: tick of the last use; 16 to 31: number of the flush before it; 32 to 47: port;
 *         48 to 55: flags; 56 to 63: moves in that tick.
 * The low half of a value is compared at once: it is table.now for an entry that was used within this second.
 */
#ifndef FASTVHOST_MAC_ENTRY_H
#define FASTVHOST_MAC_ENTRY_H

#include <stdint.h>

#define KEY_USED 1ull
#define KEY_ANY_VLAN 0xfff0ull          /* 4095, which no frame may have (IEEE 802.1Q): reservations */
#define KEY_ADDRESS 0xffffffffffff0000ull
#define KEY_GROUP (1ull << 16)          /* the group bit: multicast and broadcast */
#define KEY_LINK_LOCAL 0x000000c280010000ull /* 01-80-C2-00-00-00 to -0F (IEEE 802.1D) */
#define KEY_LINK_LOCAL_MASK 0xf0ffffffffff0000ull
#define ENTRY_STATIC (1ull << 48)
#define ENTRY_FROZEN (1ull << 49)

/* Twice both halves of a product of 128 bits, mixed. Its buckets are the low bits and those from 32 on. One such product
 * would put addresses with equal steps between them at equal steps: with one secret in fifty, a thousand addresses that
 * follow each other into a few buckets. */
static inline uint64_t both_halves(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    uint64_t upper = (uint64_t)(product >> 64);
    return (uint64_t)product ^ upper;
}

static inline uint64_t mac_hash(uint64_t key, uint64_t secret, uint64_t factor)
{
    return both_halves(both_halves(key ^ secret, factor), secret);
}

#endif
