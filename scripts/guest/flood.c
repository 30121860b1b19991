/* The other end of App1's one-way streams: a program in the guest that drives the network device itself, by polling, so
 * that next to nothing of what is measured is the guest's. `flood eth0` takes the device from the kernel's driver.
 *
 * virtio-net over PCI (virtio 1.2, sections 4.1.4 and 5.1; one queue pair, no offloads, no interrupts) and e1000 (Intel's
 * 8254x manual, legacy descriptors). Memory is one huge page, whose address /proc/self/pagemap tells.
 *
 * The protocol, all of it UDP over IPv4 with a magic word and a number where the payload begins (examples/app1.py):
 *   App1 N   one frame of the stream to the guest: like the first one, N = 0, but for N, which counts up. Each 64 of
 *            them, and after a pause, are answered with Seen: how many were as they should be, and how many were not
 *   Send N   flood: as many frames as possible for N & 0xfffff milliseconds, each this frame turned round, with
 *            App1 and a number; then Done and how many they were. An order is obeyed once: N >> 20 tells them apart
 * It answers ARP, whoever is asked for.
 */

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RING = 256, SLOT = 2048, HUGE_PAGE = 2 << 20, RINGS_AT = 0, RECEIVED_AT = 256 << 10, SENT_AT = 1 << 20 };
enum { ARP = 0x0806, MAGIC_AT = 42, NUMBER_AT = 46, PAYLOAD_AT = 50, SMALLEST = 60, EACH = 64, PATIENCE = 100 };

/* What the two kinds of device have in common. */
struct device {
    int (*receive)(uint8_t **frame);  /* bytes of the next frame, 0 if there is none; it is lost at the next call */
    void (*refill)(void);             /* show the device what was received and looked at */
    int (*room)(void);                /* a free buffer for sending, or -1 */
    void (*send)(int slot, unsigned bytes);
    void (*flush)(void);              /* show the device what was sent */
    unsigned headroom;                /* of the device's own header before each frame */
};

static uint8_t *memory;      /* the huge page */
static uint64_t memory_addr; /* and where the device finds it */
static volatile uint8_t *bar;
static uint8_t mac[6];
static struct device device;
static char pci[256]; /* the device's directory in /sys */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static inline void barrier(void) { __asm__ volatile("" ::: "memory"); }
static inline uint32_t get32(const uint8_t *at) { uint32_t value; memcpy(&value, at, 4); return ntohl(value); }
static inline void put32(uint8_t *at, uint32_t value) { value = htonl(value); memcpy(at, &value, 4); }
static uint8_t *sent_frame(int slot) { return memory + SENT_AT + slot * SLOT + device.headroom; }

static uint64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

/* virtio-net */

struct desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct avail { uint16_t flags, idx, ring[RING]; };
struct used { uint16_t flags, idx; struct { uint32_t id, len; } ring[RING]; };
struct queue {
    struct desc *desc;
    volatile struct avail *avail;
    volatile struct used *used;
    volatile uint16_t *notify;
    uint16_t number, size, shown, seen; /* our idx of avail, and how far we have looked at used */
    uint64_t addr;
};
static struct queue receiveq, transmitq;
enum { NO_INTERRUPT = 1, NO_NOTIFY = 1, WRITABLE = 2, HEADER = 12, VERSION_1 = 1 };

static void publish(struct queue *q) {
    if (q->avail->idx == q->shown)
        return;
    barrier();
    q->avail->idx = q->shown;
    __sync_synchronize(); /* the device looks at idx after it has asked for notifications */
    if (!(q->used->flags & NO_NOTIFY))
        *q->notify = q->number;
}

static void offer(struct queue *q, uint16_t slot) { q->avail->ring[q->shown++ & (q->size - 1)] = slot; }

static int virtio_receive(uint8_t **frame) {
    static int held = -1;
    struct queue *q = &receiveq;
    if (held >= 0)
        offer(q, held);
    held = -1;
    if (q->used->idx == q->seen)
        return 0;
    barrier();
    uint16_t at = q->seen++ & (q->size - 1);
    held = q->used->ring[at].id;
    *frame = memory + RECEIVED_AT + held * SLOT + HEADER;
    return (int)q->used->ring[at].len - HEADER;
}

static void virtio_refill(void) { publish(&receiveq); }

static int virtio_room(void) {
    static uint16_t fresh;
    struct queue *q = &transmitq;
    if (fresh < q->size)
        return fresh++;
    if (q->used->idx == q->seen)
        return -1;
    barrier();
    return q->used->ring[q->seen++ & (q->size - 1)].id;
}

static void virtio_send(int slot, unsigned bytes) {
    transmitq.desc[slot].len = HEADER + bytes;
    offer(&transmitq, slot);
}

static void virtio_flush(void) { publish(&transmitq); }

static volatile uint8_t *common, *notifications;
static uint32_t notify_multiplier;

#define REG(type, at) (*(volatile type *)(common + (at)))

static void set64(unsigned at, uint64_t value) {
    REG(uint32_t, at) = (uint32_t)value;
    REG(uint32_t, at + 4) = value >> 32;
}

static void lay_queue(struct queue *q, uint16_t number, uint32_t buffers, uint16_t flags) {
    uint32_t at = RINGS_AT + number * (64 << 10);
    REG(uint16_t, 0x16) = q->number = number;
    q->size = REG(uint16_t, 0x18) < RING ? REG(uint16_t, 0x18) : RING;
    REG(uint16_t, 0x18) = q->size;
    q->desc = (struct desc *)(memory + at);
    q->avail = (struct avail *)(memory + at + (16 << 10));
    q->used = (struct used *)(memory + at + (32 << 10));
    q->notify = (uint16_t *)(notifications + REG(uint16_t, 0x1e) * notify_multiplier);
    q->avail->flags = NO_INTERRUPT;
    for (int i = 0; i < q->size; i++)
        q->desc[i] = (struct desc){memory_addr + buffers + i * SLOT, SLOT, flags, 0};
    set64(0x20, memory_addr + at);
    set64(0x28, memory_addr + at + (16 << 10));
    set64(0x30, memory_addr + at + (32 << 10));
    REG(uint16_t, 0x1c) = 1;
}

static volatile uint8_t *map_bar(int number) {
    char path[300];
    struct stat about;
    snprintf(path, sizeof path, "%s/resource%d", pci, number);
    int fd = open(path, O_RDWR | O_SYNC);
    if (fd < 0 || fstat(fd, &about))
        fail(path);
    void *found = mmap(NULL, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (found == MAP_FAILED)
        fail(path);
    close(fd);
    return found;
}

static void start_virtio(const uint8_t *config) {
    for (unsigned cap = config[0x34]; cap; cap = config[cap + 1]) {
        uint32_t offset;
        memcpy(&offset, config + cap + 8, 4);
        if (config[cap] != 9 || (config[cap + 3] != 1 && config[cap + 3] != 2))
            continue;
        if (bar == NULL)
            bar = map_bar(config[cap + 4]);
        if (config[cap + 3] == 1)
            common = bar + offset;
        else {
            notifications = bar + offset;
            memcpy(&notify_multiplier, config + cap + 16, 4);
        }
    }
    REG(uint8_t, 0x14) = 0;
    while (REG(uint8_t, 0x14))
        ;
    REG(uint8_t, 0x14) = 1 | 2;
    for (int half = 0; half < 2; half++) {
        REG(uint32_t, 0x08) = half;
        REG(uint32_t, 0x0c) = half ? VERSION_1 : 0;
    }
    REG(uint8_t, 0x14) = 1 | 2 | 8;
    if (!(REG(uint8_t, 0x14) & 8))
        fail("the device wants other features");
    lay_queue(&receiveq, 0, RECEIVED_AT, WRITABLE);
    lay_queue(&transmitq, 1, SENT_AT, 0);
    REG(uint8_t, 0x14) = 1 | 2 | 8 | 4;
    for (int i = 0; i < receiveq.size; i++)
        offer(&receiveq, i);
    publish(&receiveq);
    device = (struct device){virtio_receive, virtio_refill, virtio_room, virtio_send, virtio_flush, HEADER};
}

/* e1000 */

struct descriptor { uint64_t addr; uint16_t len, checksum; uint8_t status, errors; uint16_t special; };
struct to_send { uint64_t addr; uint16_t len; uint8_t cso, command, status, css; uint16_t special; };
static volatile struct descriptor *received;
static volatile struct to_send *to_send;
static unsigned next_received, next_sent, refilled, flushed;
enum { DONE = 1, SEND = 1 | 2 | 8 /* end of packet, add the FCS, report */ };

static volatile uint32_t *e1000(unsigned at) { return (volatile uint32_t *)(bar + at); }

static int e1000_receive(uint8_t **frame) {
    volatile struct descriptor *one = &received[next_received % RING];
    if (!(one->status & DONE))
        return 0;
    barrier();
    one->status = 0;
    *frame = memory + RECEIVED_AT + (next_received++ % RING) * SLOT;
    return one->len;
}

static void e1000_refill(void) {
    if (next_received - refilled < RING / 4)
        return;
    refilled = next_received;
    *e1000(0x2818) = (refilled - 1) % RING;
}

static int e1000_room(void) {
    int slot = next_sent % RING;
    /* One stays empty: head equal to tail means nothing to send. */
    return next_sent - flushed < RING - 1 && to_send[slot].status & DONE ? slot : -1;
}

static void e1000_send(int slot, unsigned bytes) {
    to_send[slot].len = bytes;
    to_send[slot].command = SEND;
    to_send[slot].status = 0;
    next_sent++;
}

static void e1000_flush(void) {
    if (flushed == next_sent)
        return;
    barrier();
    flushed = next_sent;
    *e1000(0x3818) = flushed % RING;
}

static void start_e1000(void) {
    bar = map_bar(0);
    *e1000(0xd8) = ~0u;           /* no interrupts */
    *e1000(0x100) = *e1000(0x400) = 0;
    *e1000(0) |= 0x40;            /* link up */
    received = (struct descriptor *)(memory + RINGS_AT);
    to_send = (struct to_send *)(memory + RINGS_AT + (64 << 10));
    for (int i = 0; i < RING; i++) {
        received[i].addr = memory_addr + RECEIVED_AT + i * SLOT;
        to_send[i].addr = memory_addr + SENT_AT + i * SLOT;
        to_send[i].status = DONE;
    }
    uint64_t rings[] = {memory_addr + RINGS_AT, memory_addr + RINGS_AT + (64 << 10)};
    for (int i = 0; i < 2; i++) {
        unsigned at = i ? 0x3800 : 0x2800;
        *e1000(at) = (uint32_t)rings[i];
        *e1000(at + 4) = rings[i] >> 32;
        *e1000(at + 8) = RING * 16;
        *e1000(at + 0x10) = *e1000(at + 0x18) = 0;
    }
    *e1000(0x400) = 2 | 8;                           /* transmit, pad short frames */
    *e1000(0x100) = 2 | 8 | 16 | 0x8000 | 0x4000000; /* receive everything, without FCS */
    *e1000(0x2818) = RING - 1;
    device = (struct device){e1000_receive, e1000_refill, e1000_room, e1000_send, e1000_flush, 0};
}

/* Traffic */

static uint8_t stream[SLOT], order[SLOT];
static unsigned stream_bytes, order_bytes;
static uint32_t intact, not_intact, expected, told, last_order = ~0u;

/* A frame in the other direction. */
static void turn_round(uint8_t *to, const uint8_t *frame, unsigned bytes) {
    memcpy(to, frame, bytes);
    memcpy(to, frame + 6, 6);
    memcpy(to + 6, mac, 6);
    memcpy(to + 26, frame + 30, 4);
    memcpy(to + 30, frame + 26, 4);
}

/* Who may be waited for, QEMU above all, may need the processor that this program would spin on. */
static void rest(int idle) {
    static unsigned in_vain;
    struct timespec moment = {0, 20000};
    in_vain = idle ? in_vain + 1 : 0;
    if (in_vain > PATIENCE)
        nanosleep(&moment, NULL);
}

static int wait_room(void) {
    int slot;
    while ((slot = device.room()) < 0)
        ;
    return slot;
}

static void answer(const uint8_t *frame, unsigned bytes, const char *magic, uint32_t number, uint32_t second) {
    int slot = wait_room();
    uint8_t *to = sent_frame(slot);
    turn_round(to, frame, bytes);
    memcpy(to + MAGIC_AT, magic, 4);
    put32(to + NUMBER_AT, number);
    put32(to + PAYLOAD_AT, second);
    device.send(slot, bytes);
    device.flush();
}

static void answer_arp(const uint8_t *frame) {
    int slot = wait_room();
    uint8_t *to = sent_frame(slot);
    memset(to, 0, SMALLEST);
    memcpy(to, frame + 6, 6);
    memcpy(to + 6, mac, 6);
    memcpy(to + 12, frame + 12, 9);
    to[21] = 2;
    memcpy(to + 22, mac, 6);
    memcpy(to + 28, frame + 38, 4);
    memcpy(to + 32, frame + 22, 10);
    device.send(slot, SMALLEST);
    device.flush();
}

/* Number 0 begins a stream and shows what its frames look like. */
static void count(const uint8_t *frame, unsigned bytes) {
    uint32_t number = get32(frame + NUMBER_AT);
    if (number == 0) {
        memcpy(stream, frame, stream_bytes = bytes);
        intact = not_intact = expected = told = 0;
    }
    if (bytes == stream_bytes && number >= expected && !memcmp(frame, stream, NUMBER_AT) &&
        !memcmp(frame + PAYLOAD_AT, stream + PAYLOAD_AT, bytes - PAYLOAD_AT)) {
        intact++;
        expected = number + 1;
    } else
        not_intact++;
}

static void flood(uint32_t ms) {
    static uint8_t filled[RING];
    uint64_t end = milliseconds() + ms;
    uint32_t number = 0, looks = 0;
    turn_round(stream, order, order_bytes);
    memcpy(stream + MAGIC_AT, "App1", 4);
    memset(filled, 0, sizeof filled);
    while (++looks % 64 || milliseconds() < end) {
        int slot, i;
        for (i = 0; i < EACH && (slot = device.room()) >= 0; i++) {
            uint8_t *to = sent_frame(slot);
            if (!filled[slot]) {
                memcpy(to, stream, order_bytes);
                filled[slot] = 1;
            }
            put32(to + NUMBER_AT, number++);
            device.send(slot, order_bytes);
        }
        device.flush();
        rest(i == 0);
    }
    answer(order, order_bytes, "Done", number, 0);
}

static void take(const uint8_t *frame, unsigned bytes) {
    if (bytes >= 42 && frame[12] == ARP >> 8 && frame[13] == (ARP & 255) && frame[21] == 1)
        answer_arp(frame);
    else if (bytes < PAYLOAD_AT + 4 || bytes > SLOT - HEADER)
        return;
    else if (!memcmp(frame + MAGIC_AT, "App1", 4))
        count(frame, bytes);
    else if (!memcmp(frame + MAGIC_AT, "Send", 4) && get32(frame + NUMBER_AT) != last_order) {
        last_order = get32(frame + NUMBER_AT);
        memcpy(order, frame, order_bytes = bytes);
        flood(last_order & 0xfffff);
    }
}

static void serve(void) {
    uint32_t quiet = 0;
    for (;;) {
        uint8_t *frame;
        int bytes = device.receive(&frame);
        if (bytes > 0) {
            take(frame, bytes);
            quiet = 0;
        } else if (quiet < PATIENCE)
            quiet++;
        rest(bytes <= 0);
        uint32_t seen = intact + not_intact, due = quiet >= PATIENCE / 2 ? 1 : EACH;
        if (bytes <= 0 || !(seen % 16))
            device.refill();
        if (seen - told >= due) {
            answer(stream, stream_bytes, "Seen", intact, not_intact);
            told = seen;
        }
    }
}

/* Start */

static void write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail(path);
    close(fd);
}

static void find_memory(void) {
    write_text("/proc/sys/vm/nr_hugepages", "1");
    memory = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        fail("no huge page");
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)memory / 4096 * 8) != 8 || !(entry & ((1ull << 55) - 1)))
        fail("/proc/self/pagemap");
    memory_addr = (entry & ((1ull << 55) - 1)) * 4096;
    close(fd);
}

int main(int argc, char **argv) {
    char path[300], link[256];
    uint8_t config[256] = {0};
    if (argc != 2)
        return fprintf(stderr, "usage: flood INTERFACE\n"), 2;
    snprintf(path, sizeof path, "/sys/class/net/%s/address", argv[1]);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
        fail(path);
    fclose(file);
    snprintf(path, sizeof path, "/sys/class/net/%s/device", argv[1]);
    if (!realpath(path, link))
        fail(path);
    if (strstr(link, "/virtio")) /* a virtio device; PCI is one above it */
        *strrchr(link, '/') = 0;
    strcpy(pci, link);
    find_memory();
    snprintf(path, sizeof path, "%s/driver/unbind", pci);
    write_text(path, strrchr(pci, '/') + 1);
    snprintf(path, sizeof path, "%s/config", pci);
    int fd = open(path, O_RDWR);
    if (fd < 0 || pread(fd, config, 256, 0) < 64)
        fail(path);
    uint16_t command = 2 | 4 | 0x400; /* memory, bus master, no interrupts */
    if (pwrite(fd, &command, 2, 4) != 2)
        fail(path);
    close(fd);
    if (config[0] == 0xf4 && config[1] == 0x1a)
        start_virtio(config);
    else
        start_e1000();
    printf("flooding on %s\n", pci);
    fflush(stdout);
    serve();
}
