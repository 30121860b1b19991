/* probe: a vhost-user back-end of two ports in one loop that copies each frame once and checks nothing.
 *
 * It tells what the machine allows, not how a back-end is written: a guest that breaks a rule crashes it. Split rings
 * only, frames of one descriptor, one connection a port, no notifications. It copies small frames with AVX-512 where the
 * compiler may use it.
 *
 * usage: probe SOCKET SOCKET CPU        It runs until it is killed. */
#define _GNU_SOURCE
#include "vhost_user.h"
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#define BURST 64
#define SMALL_FRAME 256    /* bytes; longer ones are left to memcpy */
#define LINE 64
#define LONGEST_BURST_US 1000

struct queue {
    struct vring_desc *descriptors;
    struct vring_avail *available;
    struct vring_used *used;
    uint64_t descriptors_user, available_user, used_user;
    uint16_t size, next;    /* next: of the available and of the used ring, since all of a burst is used at once */
    int kicked, enabled;
    int running;            /* written by the control thread, read by the loop */
};

struct port {
    int socket;
    unsigned n_regions;
    struct region regions[MOST_REGIONS];
    uint8_t *mapped[MOST_REGIONS];
    struct queue queues[QUEUES];
};

static struct port ports[2];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Where the byte at an address lies here. The addresses are the guest's, in descriptors. */
static inline uint8_t *of_guest(const struct port *port, uint64_t address)
{
    for (unsigned i = 0; i < port->n_regions; i++)
        if (address - port->regions[i].guest < port->regions[i].bytes)
            return port->mapped[i] + (address - port->regions[i].guest);
    return NULL;
}

/* The same for an address of the front-end's process, as in SET_VRING_ADDR. */
static uint8_t *of_user(const struct port *port, uint64_t address)
{
    for (unsigned i = 0; i < port->n_regions; i++)
        if (address - port->regions[i].user < port->regions[i].bytes)
            return port->mapped[i] + (address - port->regions[i].user);
    return NULL;
}

static void map_memory(struct port *port, const struct message *message, const int *fds)
{
    port->n_regions = message->memory.n;
    for (unsigned i = 0; i < port->n_regions; i++) {
        struct region region = message->memory.regions[i];
        size_t bytes = region.bytes + region.offset;
        uint8_t *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fds[i], 0);
        if (start == MAP_FAILED)
            die("mmap");
        close(fds[i]);
        port->regions[i] = region;
        port->mapped[i] = start + region.offset;
    }
}

/* A ring runs once it was kicked and enabled, in whatever order. */
static void start(struct port *port, struct queue *queue)
{
    int running = queue->kicked && queue->enabled;
    if (running) {
        queue->descriptors = (void *)of_user(port, queue->descriptors_user);
        queue->available = (void *)of_user(port, queue->available_user);
        queue->used = (void *)of_user(port, queue->used_user);
        queue->used->flags = VRING_USED_F_NO_NOTIFY;
    }
    __atomic_store_n(&queue->running, running, __ATOMIC_RELEASE);    /* pairs with the load in forward() */
}

static void reply(const struct port *port, struct message *message, size_t bytes)
{
    message->flags = FLAGS_VERSION | FLAGS_REPLY;
    message->bytes = bytes;
    if (send(port->socket, message, MESSAGE_HEADER_BYTES + bytes, 0) < 0)
        die("send");
}

static int receive(const struct port *port, struct message *message, int *fds)
{
    char control[CMSG_SPACE(MOST_REGIONS * sizeof(int))];
    struct iovec header = {message, MESSAGE_HEADER_BYTES};
    struct msghdr what = {.msg_iov = &header, .msg_iovlen = 1};
    what.msg_control = control;
    what.msg_controllen = sizeof control;
    if (recvmsg(port->socket, &what, MSG_WAITALL) != MESSAGE_HEADER_BYTES)
        return 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&what); part; part = CMSG_NXTHDR(&what, part))
        if (part->cmsg_type == SCM_RIGHTS)
            memcpy(fds, CMSG_DATA(part), part->cmsg_len - CMSG_LEN(0));
    return !message->bytes || recv(port->socket, &message->u64, message->bytes, MSG_WAITALL) == message->bytes;
}

static void answer(struct port *port, struct message *message, const int *fds)
{
    struct queue *queue = &port->queues[message->state.index % QUEUES];    /* of the requests that name one */
    int wants_reply = message->flags & FLAGS_NEED_REPLY;
    switch (message->request) {
    case GET_FEATURES:
        message->u64 = VIRTIO_F_VERSION_1_BIT | VIRTIO_F_IN_ORDER_BIT | PROTOCOL_FEATURES_BIT | MRG_RXBUF_BIT;
        reply(port, message, sizeof message->u64);
        return;
    case GET_PROTOCOL_FEATURES:
        message->u64 = PROTOCOL_MQ | PROTOCOL_REPLY_ACK;
        reply(port, message, sizeof message->u64);
        return;
    case GET_QUEUE_NUM:
        message->u64 = 1;
        reply(port, message, sizeof message->u64);
        return;
    case GET_VRING_BASE:
        queue->kicked = 0;
        start(port, queue);
        usleep(LONGEST_BURST_US);
        message->state.num = queue->next;
        reply(port, message, sizeof message->state);
        return;
    case SET_MEM_TABLE:
        map_memory(port, message, fds);
        break;
    case SET_VRING_NUM:
        queue->size = message->state.num;
        break;
    case SET_VRING_ADDR:
        queue->descriptors_user = message->addresses.descriptors;
        queue->available_user = message->addresses.available;
        queue->used_user = message->addresses.used;
        break;
    case SET_VRING_BASE:
        queue->next = message->state.num;
        break;
    case SET_VRING_KICK:
        queue->kicked = 1;
        start(port, queue);
        break;
    case SET_VRING_ENABLE:
        queue->enabled = message->state.num;
        start(port, queue);
        break;
    }
    if (wants_reply) {
        message->u64 = 0;
        reply(port, message, sizeof message->u64);
    }
}

static void *control(void *one)
{
    struct port *port = one;
    struct message message;
    int fds[MOST_REGIONS];
    while (receive(port, &message, fds))
        answer(port, &message, fds);
    for (int i = 0; i < QUEUES; i++)
        __atomic_store_n(&port->queues[i].running, 0, __ATOMIC_RELEASE);
    return NULL;
}

static inline void copy(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
#ifdef __AVX512BW__
    if (bytes <= SMALL_FRAME) {
        for (; bytes >= LINE; bytes -= LINE, to += LINE, from += LINE)
            _mm512_storeu_si512(to, _mm512_loadu_si512(from));
        if (bytes) {
            __mmask64 mask = ~0ull >> (LINE - bytes);
            _mm512_mask_storeu_epi8(to, mask, _mm512_maskz_loadu_epi8(mask, from));
        }
        return;
    }
#endif
    memcpy(to, from, bytes);
}

static inline unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

/* One burst from a transmitq into the other port's receiveq. */
static void forward(struct port *sender, struct port *receiver)
{
    struct queue *out = &sender->queues[TRANSMITQ], *in = &receiver->queues[RECEIVEQ];
    uint16_t out_head[BURST], in_head[BURST];
    uint8_t *from[BURST], *to[BURST];
    uint32_t bytes[BURST];
    if (!__atomic_load_n(&out->running, __ATOMIC_ACQUIRE) || !__atomic_load_n(&in->running, __ATOMIC_ACQUIRE))
        return;
    /* Both loads pair with the drivers' stores of their available index. */
    unsigned posted = (uint16_t)(__atomic_load_n(&out->available->idx, __ATOMIC_ACQUIRE) - out->next);
    unsigned room = (uint16_t)(__atomic_load_n(&in->available->idx, __ATOMIC_ACQUIRE) - in->next);
    unsigned n = least(least(posted, room), BURST);
    uint16_t out_mask = out->size - 1, in_mask = in->size - 1;
    if (!n)
        return;
    for (unsigned i = 0; i < n; i++) {
        out_head[i] = out->available->ring[(out->next + i) & out_mask];
        in_head[i] = in->available->ring[(in->next + i) & in_mask];
        __builtin_prefetch(&out->descriptors[out_head[i]]);
        __builtin_prefetch(&in->descriptors[in_head[i]]);
    }
    for (unsigned i = 0; i < n; i++) {
        const struct vring_desc *sent = &out->descriptors[out_head[i]], *buffer = &in->descriptors[in_head[i]];
        bytes[i] = sent->len;
        from[i] = of_guest(sender, sent->addr);
        to[i] = of_guest(receiver, buffer->addr);
        __builtin_prefetch(from[i]);
        __builtin_prefetch(from[i] + LINE);
        __builtin_prefetch(to[i], 1);
        if (bytes[i] > LINE - NET_HEADER_BYTES)
            __builtin_prefetch(to[i] + LINE, 1);
        if (sent->flags & VRING_DESC_F_NEXT || buffer->len < bytes[i]) {
            fprintf(stderr, "probe: a frame of several descriptors, or one too long; it knows neither\n");
            exit(1);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        copy(to[i], from[i], bytes[i]);
        *(uint16_t *)(to[i] + NET_HEADER_BYTES - 2) = 1;    /* num_buffers */
        out->used->ring[(out->next + i) & out_mask] = (struct vring_used_elem){out_head[i], 0};
        in->used->ring[(in->next + i) & in_mask] = (struct vring_used_elem){in_head[i], bytes[i]};
    }
    out->next += n;
    in->next += n;
    /* Both stores pair with the drivers' loads of the used index. */
    __atomic_store_n(&in->used->idx, in->next, __ATOMIC_RELEASE);
    __atomic_store_n(&out->used->idx, out->next, __ATOMIC_RELEASE);
}

static int listening(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    unlink(path);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1))
        die(path);
    return fd;
}

int main(int argc, char **argv)
{
    int listeners[2];
    cpu_set_t cpus;
    if (argc != 4) {
        fprintf(stderr, "usage: probe SOCKET SOCKET CPU\n");
        return 2;
    }
    for (int i = 0; i < 2; i++)
        listeners[i] = listening(argv[1 + i]);
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        if ((ports[i].socket = accept(listeners[i], NULL, NULL)) < 0)
            die("accept");
        if (pthread_create(&thread, NULL, control, &ports[i]))
            die("pthread_create");
    }
    CPU_ZERO(&cpus);
    CPU_SET(atoi(argv[3]), &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus))
        die("sched_setaffinity");
    for (;;) {
        forward(&ports[0], &ports[1]);
        forward(&ports[1], &ports[0]);
    }
}
