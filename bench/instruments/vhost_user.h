/* What both instruments know of vhost-user: requests by number, and a message. See "Front-end message types" there. */
#include <stdint.h>

#define VIRTIO_F_IN_ORDER_BIT (1ull << 35)
#define VIRTIO_F_VERSION_1_BIT (1ull << 32)
#define PROTOCOL_FEATURES_BIT (1ull << 30)
#define MRG_RXBUF_BIT (1ull << 15)
#define PROTOCOL_MQ (1ull << 0)
#define PROTOCOL_REPLY_ACK (1ull << 3)

#define NET_HEADER_BYTES 12
#define MOST_REGIONS 8

enum request {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
};

enum { FLAGS_VERSION = 1, FLAGS_REPLY = 1 << 2, FLAGS_NEED_REPLY = 1 << 3 };
enum { MESSAGE_HEADER_BYTES = 12 };
enum { RECEIVEQ, TRANSMITQ, QUEUES };

struct region {
    uint64_t guest, bytes, user, offset;
};

struct message {
    uint32_t request, flags, bytes;
    union {
        uint64_t u64;
        struct {
            uint32_t index, num;
        } state;
        struct {
            uint32_t index, flags;
            uint64_t descriptors, used, available, log;
        } addresses;
        struct {
            uint32_t n, padding;
            struct region regions[MOST_REGIONS];
        } memory;
    };
} __attribute__((packed));
