/* vgen: a minimal virtio-net driver over vhost-user, the load that the built-in guests are measured against.
 *
 * It has two ports, floods both with frames of one size, and drains both, on one CPU. Split rings only. A descriptor is
 * written once: a buffer that comes back is made available again as it is, so a frame costs it some twenty cycles, and
 * the back-end limits the rate. It writes a number into each frame that it sends, and checks the number of each that it
 * receives.
 *
 * usage: vgen BYTES CPU SOCKET SOCKET        It runs until it is killed, and prints every 50 ms
 *        t=<monotonic seconds> d=<seconds> rx=<frames received> bad=<frames that were not as sent, so far> */
#define _GNU_SOURCE
#include "vhost_user.h"
#include <linux/virtio_ring.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RING 1024
#define BUFFER_BYTES 2048
#define MEMORY_BYTES (64u << 20)
#define GUEST_START 0x40000000ull
#define BURST 64
#define PAGE 4096
#define ETHERNET_BYTES 14
#define LEAST_FRAME (ETHERNET_BYTES + (int)sizeof(struct stamp))
#define WINDOW_SECONDS 0.05
#define CONNECT_ATTEMPTS 100
#define ATTEMPT_US 100000
#define SETTLE_US 1000000    /* a back-end maps memory and starts rings meanwhile */

struct stamp {
    uint64_t number, inverse, more[3];
} __attribute__((packed, may_alias));

struct queue {
    struct vring_desc *descriptors;
    struct vring_avail *available;
    struct vring_used *used;
    uint8_t *buffers;
    uint16_t made_available, seen_used;
    int kick, call;
};

struct port {
    int socket;
    struct queue queues[QUEUES];
    uint64_t sent, received, bad;
};

static const uint8_t MACS[2][6] = {{0x52, 0x54, 0, 0, 0, 0x0a}, {0x52, 0x54, 0, 0, 0, 0x0b}};

static struct port ports[2];
static uint8_t *memory, *unclaimed;
static int memory_fd;
static uint32_t frame_bytes;

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

/* Memory of the guest */

static void make_memory(void)
{
    memory_fd = memfd_create("vgen", MFD_HUGETLB);
    for (int huge = 1; huge >= 0; huge--, memory_fd = memfd_create("vgen", 0)) {
        if (memory_fd < 0 || ftruncate(memory_fd, MEMORY_BYTES))
            continue;
        memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory_fd, 0);
        if (memory != MAP_FAILED)
            break;
    }
    if (!memory || memory == MAP_FAILED)
        die("memfd_create");
    unclaimed = memory;
}

static void *claim(size_t bytes)
{
    uint8_t *claimed = unclaimed;
    unclaimed += (bytes + PAGE - 1) / PAGE * PAGE;
    return claimed;
}

static uint64_t guest_address(const uint8_t *byte) { return GUEST_START + (uint64_t)(byte - memory); }

static void make_queue(struct queue *queue)
{
    queue->descriptors = claim(RING * sizeof *queue->descriptors);
    queue->available = claim(sizeof *queue->available + RING * sizeof queue->available->ring[0]);
    queue->used = claim(sizeof *queue->used + RING * sizeof queue->used->ring[0]);
    queue->buffers = claim((size_t)RING * BUFFER_BYTES);
    queue->available->flags = VRING_AVAIL_F_NO_INTERRUPT;
    queue->kick = eventfd(0, EFD_NONBLOCK);
    queue->call = eventfd(0, EFD_NONBLOCK);
    for (int i = 0; i < RING; i++)
        queue->available->ring[i] = i;
}

static void fill(struct port *port, int own)
{
    struct queue *in = &port->queues[RECEIVEQ], *out = &port->queues[TRANSMITQ];
    for (int i = 0; i < RING; i++) {
        uint8_t *buffer = out->buffers + (size_t)i * BUFFER_BYTES, *ethernet = buffer + NET_HEADER_BYTES;
        memcpy(ethernet, MACS[!own], sizeof MACS[0]);
        memcpy(ethernet + sizeof MACS[0], MACS[own], sizeof MACS[0]);
        ethernet[2 * sizeof MACS[0]] = 0x08;    /* IPv4, by its EtherType */
        out->descriptors[i] = (struct vring_desc){guest_address(buffer), NET_HEADER_BYTES + frame_bytes, 0, 0};
        buffer = in->buffers + (size_t)i * BUFFER_BYTES;
        in->descriptors[i] = (struct vring_desc){guest_address(buffer), BUFFER_BYTES, VRING_DESC_F_WRITE, 0};
    }
}

/* The front-end */

static void tell(int fd, struct message *message, int with)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec bytes = {message, MESSAGE_HEADER_BYTES + message->bytes};
    struct msghdr what = {.msg_iov = &bytes, .msg_iovlen = 1};
    message->flags = FLAGS_VERSION;
    if (with >= 0) {
        struct cmsghdr *part = (void *)control;
        what.msg_control = control;
        what.msg_controllen = sizeof control;
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof with);
        memcpy(CMSG_DATA(part), &with, sizeof with);
    }
    if (sendmsg(fd, &what, 0) != (ssize_t)bytes.iov_len)
        die("sendmsg");
}

static uint64_t ask(int fd, uint32_t request)
{
    struct message message = {.request = request};
    ssize_t bytes = MESSAGE_HEADER_BYTES + sizeof message.u64;
    tell(fd, &message, -1);
    if (recv(fd, &message, bytes, MSG_WAITALL) != bytes)
        die("recv");
    return message.u64;
}

static void tell_u64(int fd, uint32_t request, uint64_t value, int with)
{
    struct message message = {.request = request, .bytes = sizeof message.u64, .u64 = value};
    tell(fd, &message, with);
}

static void tell_state(int fd, uint32_t request, uint32_t index, uint32_t num)
{
    struct message message = {.request = request, .bytes = sizeof message.state, .state = {index, num}};
    tell(fd, &message, -1);
}

static int connected(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    for (int i = 0; i < CONNECT_ATTEMPTS; i++) {
        if (!connect(fd, (void *)&address, sizeof address))
            return fd;
        usleep(ATTEMPT_US);
    }
    die(path);
    return -1;
}

static void set_up(struct port *port)
{
    int fd = port->socket;
    struct message owner = {.request = SET_OWNER}, table = {.request = SET_MEM_TABLE};
    tell(fd, &owner, -1);
    uint64_t offered = ask(fd, GET_FEATURES);
    if (!(offered & VIRTIO_F_VERSION_1_BIT)) {
        fprintf(stderr, "vgen: the back-end does not offer VERSION_1\n");
        exit(2);
    }
    if (offered & PROTOCOL_FEATURES_BIT)
        tell_u64(fd, SET_PROTOCOL_FEATURES, ask(fd, GET_PROTOCOL_FEATURES) & PROTOCOL_MQ, -1);
    tell_u64(fd, SET_FEATURES, offered & (VIRTIO_F_VERSION_1_BIT | PROTOCOL_FEATURES_BIT | MRG_RXBUF_BIT), -1);
    table.bytes = 2 * sizeof(uint32_t) + sizeof(struct region);
    table.memory.n = 1;
    table.memory.regions[0] = (struct region){GUEST_START, MEMORY_BYTES, (uint64_t)memory, 0};
    tell(fd, &table, memory_fd);
    for (uint32_t i = 0; i < QUEUES; i++) {
        struct queue *queue = &port->queues[i];
        struct message where = {.request = SET_VRING_ADDR, .bytes = sizeof where.addresses};
        where.addresses.index = i;
        where.addresses.descriptors = (uint64_t)queue->descriptors;
        where.addresses.available = (uint64_t)queue->available;
        where.addresses.used = (uint64_t)queue->used;
        tell_state(fd, SET_VRING_NUM, i, RING);
        tell_state(fd, SET_VRING_BASE, i, 0);
        tell(fd, &where, -1);
        tell_u64(fd, SET_VRING_CALL, i, queue->call);
        tell_u64(fd, SET_VRING_KICK, i, queue->kick);
    }
    for (uint32_t i = 0; offered & PROTOCOL_FEATURES_BIT && i < QUEUES; i++)
        tell_state(fd, SET_VRING_ENABLE, i, 1);
}

/* The driver */

static inline void post(struct queue *queue, unsigned n)
{
    queue->made_available += n;
    /* Pairs with the back-end's load of the available index. No kick: the back-ends of a comparison poll. */
    __atomic_store_n(&queue->available->idx, queue->made_available, __ATOMIC_RELEASE);
}

/* How many chains came back, a burst at most. */
static inline unsigned returned(const struct queue *queue)
{
    /* Pairs with the back-end's store of the used index. */
    unsigned n = (uint16_t)(__atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE) - queue->seen_used);
    return n < BURST ? n : BURST;
}

static inline struct stamp *stamp_of(const struct queue *queue, uint16_t id)
{
    return (struct stamp *)(queue->buffers + (size_t)id * BUFFER_BYTES + NET_HEADER_BYTES + ETHERNET_BYTES);
}

static inline void send_again(struct port *port)
{
    struct queue *queue = &port->queues[TRANSMITQ];
    unsigned n = returned(queue);
    if (!n)
        return;
    for (unsigned i = 0; i < n; i++) {
        uint16_t id = queue->used->ring[(queue->seen_used + i) % RING].id;
        uint64_t number = port->sent + i;
        queue->available->ring[(queue->made_available + i) % RING] = id;
        *stamp_of(queue, id) = (struct stamp){number, ~number, {number, number, number}};
    }
    queue->seen_used += n;
    port->sent += n;
    post(queue, n);
}

static inline void receive(struct port *port)
{
    struct queue *queue = &port->queues[RECEIVEQ];
    unsigned n = returned(queue);
    if (!n)
        return;
    for (unsigned i = 0; i < n; i++) {
        struct vring_used_elem used = queue->used->ring[(queue->seen_used + i) % RING];
        const struct stamp *stamp = stamp_of(queue, used.id);
        queue->available->ring[(queue->made_available + i) % RING] = used.id;
        /* The first frames have no number yet. */
        int wrong_number = stamp->number && stamp->inverse != ~stamp->number;
        port->bad += wrong_number || used.len != NET_HEADER_BYTES + frame_bytes;
    }
    queue->seen_used += n;
    port->received += n;
    post(queue, n);
}

static void flood(void)
{
    double last = now();
    uint64_t before = 0;
    for (unsigned turn = 1;; turn++) {
        for (int i = 0; i < 2; i++) {
            receive(&ports[i]);
            send_again(&ports[i]);
        }
        if (turn % BURST)
            continue;
        double time = now();
        if (time - last < WINDOW_SECONDS)
            continue;
        uint64_t received = ports[0].received + ports[1].received;
        printf("t=%.4f d=%.4f rx=%lu bad=%lu\n", time, time - last, received - before, ports[0].bad + ports[1].bad);
        before = received;
        last = time;
    }
}

int main(int argc, char **argv)
{
    cpu_set_t cpus;
    if (argc != 5 || (frame_bytes = atoi(argv[1])) < LEAST_FRAME || frame_bytes > BUFFER_BYTES - NET_HEADER_BYTES) {
        fprintf(stderr, "usage: vgen BYTES CPU SOCKET SOCKET\n");
        return 2;
    }
    CPU_ZERO(&cpus);
    CPU_SET(atoi(argv[2]), &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus))
        die("sched_setaffinity");
    setvbuf(stdout, NULL, _IOLBF, 0);
    make_memory();
    for (int i = 0; i < 2; i++) {
        make_queue(&ports[i].queues[RECEIVEQ]);
        make_queue(&ports[i].queues[TRANSMITQ]);
        fill(&ports[i], i);
        ports[i].socket = connected(argv[3 + i]);
    }
    for (int i = 0; i < 2; i++)
        set_up(&ports[i]);
    for (int i = 0; i < 2; i++)
        post(&ports[i].queues[RECEIVEQ], RING);
    usleep(SETTLE_US);
    for (int i = 0; i < 2; i++)
        post(&ports[i].queues[TRANSMITQ], RING - 1);
    flood();
}
