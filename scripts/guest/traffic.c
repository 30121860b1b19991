/*
 * Traffic of a guest, and what it sees of it: a stream of TCP or of UDP, its hash at both ends, and a capture.
 * Static, with no library. Each use ends by itself, after two minutes at most.
 *
 * usage: traffic receive tcp|udp PORT              listens, goes on in the background, for one sender
 *        traffic send tcp|udp ADDRESS PORT BYTES   prints what both ends saw, one line each: "sent BYTES HASH",
 *                                                  "received BYTES HASH"
 *        traffic fill ADDRESS PORT SECONDS         TCP of the same bytes again and again, nothing hashed: prints
 *                                                  "BYTES SECONDS", from the first byte to the receiver's answer
 *        traffic capture INTERFACE FILE            goes on in the background until SIGTERM, then to what is there
 *
 * SIGTERM ends a stream early, in order. Addresses are IPv4 or IPv6. UDP is handed over in datagrams of 1400 bytes, forty at a time (UDP_SEGMENT), and goes on
 * when those have arrived. A capture has for each frame: its bytes, its VLAN tag or 0xffffffff, the virtio-net header
 * that the kernel gives a packet socket (12 bytes, the last two 0), the frame.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { MOST_SECONDS = 120, DATAGRAM = 1400, AT_A_TIME = 40, CHUNK = 1 << 17, ROOM = 8 << 20, CAPTURE_ROOM = 48 << 20 };

struct seen {
    uint64_t bytes, hash;
};

static uint8_t buffer[CHUNK];
static volatile sig_atomic_t enough;
static int captured = -1;

static void end(int number)
{
    (void)number;
    enough = 1;
    if (captured >= 0)
        fcntl(captured, F_SETFL, O_NONBLOCK);
}

static void fail(const char *what)
{
    fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long must(long result, const char *what)
{
    if (result < 0)
        fail(what);
    return result;
}

/* FNV-1a. */
static void add(struct seen *seen, const uint8_t *at, size_t n)
{
    seen->bytes += n;
    for (size_t i = 0; i < n; i++)
        seen->hash = (seen->hash ^ at[i]) * 0x100000001b3;
}

/* xorshift: no two stretches of a stream are the same. */
static void make(uint8_t *to, size_t n)
{
    static uint64_t state = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        to[i] = (uint8_t)(state >> 24);
    }
}

/* An address as the kernel takes it; NULL is any of this guest's. */
static struct sockaddr_in6 place(const char *address, const char *port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    char mapped[64];

    if (address) {
        snprintf(mapped, sizeof mapped, "%s%s", strchr(address, ':') ? "" : "::ffff:", address);
        if (inet_pton(AF_INET6, mapped, &six.sin6_addr) != 1)
            fail(address);
    }
    return six;
}

/* One for both: IPv4 is an address of a kind in IPv6's socket. */
static int open_socket(int type)
{
    int fd = (int)must(socket(AF_INET6, type, 0), "socket"), on = 1, off = 0, room = ROOM;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (type == SOCK_DGRAM)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    return fd;
}

static void go_on_in_background(void)
{
    int nothing = open("/dev/null", O_RDWR);

    if (must(fork(), "fork"))
        exit(0);
    setsid();
    dup2(nothing, 1);
    dup2(nothing, 2);
    alarm(MOST_SECONDS);
}

static void receive(int type, const char *port)
{
    struct seen seen = {0, 0xcbf29ce484222325};
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    struct sockaddr_in6 here = place(NULL, port);
    int fd = open_socket(type);
    ssize_t n;

    must(bind(fd, (struct sockaddr *)&here, sizeof here), "bind");
    if (type == SOCK_STREAM)
        must(listen(fd, 1), "listen");
    go_on_in_background();
    if (type == SOCK_STREAM) {
        fd = (int)must(accept(fd, NULL, NULL), "accept");
        n = recv(fd, buffer, 1, 0);    /* whether it is to be hashed */
        if (n == 1 && buffer[0] == 'h')
            while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0)
                add(&seen, buffer, (size_t)n);
        else
            while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0)
                seen.bytes += (uint64_t)n;
        send(fd, &seen, sizeof seen, 0);
        return;
    }
    /* A datagram of its own length is the last of forty, or of all. */
    for (;;) {
        n = must(recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size), "recvfrom");
        if (n == 0)
            return;
        add(&seen, buffer, (size_t)n);
        if (n != DATAGRAM)
            sendto(fd, &seen, sizeof seen, 0, (struct sockaddr *)&from, size);
    }
}

static void answer(int fd, struct seen *theirs)
{
    struct timeval patience = {MOST_SECONDS / 2, 0};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (recv(fd, theirs, sizeof *theirs, MSG_WAITALL) != sizeof *theirs)
        fail("the receiver does not answer");
}

static void send_stream(int type, const char *address, const char *port, uint64_t bytes)
{
    struct seen ours = {0, 0xcbf29ce484222325}, theirs = {0, 0};
    struct sockaddr_in6 there = place(address, port);
    int fd = open_socket(type), segment = DATAGRAM;
    size_t n, most = type == SOCK_STREAM ? sizeof buffer : DATAGRAM * AT_A_TIME - 1;

    must(connect(fd, (struct sockaddr *)&there, sizeof there), "connect");
    if (type == SOCK_STREAM)
        must(send(fd, "h", 1, 0), "send");
    else
        must(setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment), "UDP_SEGMENT");
    signal(SIGTERM, end);
    while (ours.bytes < bytes && !enough) {
        n = bytes - ours.bytes < most ? bytes - ours.bytes : most;
        if (type == SOCK_DGRAM && n % DATAGRAM == 0)
            n--;
        make(buffer, n);
        add(&ours, buffer, n);
        for (size_t at = 0; at < n;)
            at += (size_t)must(send(fd, buffer + at, n - at, 0), "send");
        if (type == SOCK_DGRAM) {
            answer(fd, &theirs);
            if (theirs.bytes != ours.bytes)
                break;
        }
    }
    if (type == SOCK_STREAM) {
        shutdown(fd, SHUT_WR);
        answer(fd, &theirs);
    } else {
        send(fd, buffer, 0, 0);
    }
    printf("sent %llu %016llx\n", (unsigned long long)ours.bytes, (unsigned long long)ours.hash);
    printf("received %llu %016llx\n", (unsigned long long)theirs.bytes, (unsigned long long)theirs.hash);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fill(const char *address, const char *port, double seconds)
{
    struct seen theirs;
    struct timeval patience = {MOST_SECONDS / 2, 0};
    struct sockaddr_in6 there = place(address, port);
    int fd = open_socket(SOCK_STREAM);
    double start;

    must(connect(fd, (struct sockaddr *)&there, sizeof there), "connect");
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    start = now();
    must(send(fd, "f", 1, 0), "send");
    while (now() - start < seconds)
        must(send(fd, buffer, sizeof buffer, 0), "send");
    shutdown(fd, SHUT_WR);
    answer(fd, &theirs);
    printf("%llu %.6f\n", (unsigned long long)theirs.bytes, now() - start);
}

static void capture(const char *interface, const char *file)
{
    static struct {
        uint8_t net[12];
        uint8_t frame[1 << 17];
    } got;
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
                                .sll_ifindex = (int)if_nametoindex(interface)}, from;
    union {
        struct cmsghdr align;
        char room[256];
    } control;
    struct iovec parts[2] = {{got.net, 10}, {got.frame, sizeof got.frame}};
    struct msghdr message = {.msg_name = &from, .msg_iov = parts, .msg_iovlen = 2};
    int fd = (int)must(socket(AF_PACKET, SOCK_RAW, 0), "socket"), on = 1, room = CAPTURE_ROOM;
    int out = (int)must(open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644), file);

    must(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on), "PACKET_VNET_HDR");
    must(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on), "PACKET_AUXDATA");
    must(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room), "SO_RCVBUFFORCE");
    must(bind(fd, (struct sockaddr *)&where, sizeof where), interface);
    captured = fd;
    signal(SIGTERM, end);
    go_on_in_background();
    for (;;) {
        uint32_t about[2] = {0, 0xffffffff};
        ssize_t n;

        message.msg_namelen = sizeof from;
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        n = recvmsg(fd, &message, 0) - 10;
        if (n < 0 && enough && errno == EAGAIN)
            return;
        if (n < 0 || from.sll_pkttype == PACKET_OUTGOING)
            continue;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
            struct tpacket_auxdata *aux = (struct tpacket_auxdata *)CMSG_DATA(c);
            if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA && aux->tp_status & TP_STATUS_VLAN_VALID)
                about[1] = aux->tp_vlan_tci;
        }
        about[0] = (uint32_t)n;
        struct iovec record[3] = {{about, sizeof about}, {got.net, 12}, {got.frame, (size_t)n}};
        must(writev(out, record, 3), "write");
    }
}

static int type_of(const char *word)
{
    return !strcmp(word, "tcp") ? SOCK_STREAM : SOCK_DGRAM;
}

int main(int argc, char **argv)
{
    alarm(MOST_SECONDS);
    if (argc == 4 && !strcmp(argv[1], "receive"))
        receive(type_of(argv[2]), argv[3]);
    else if (argc == 6 && !strcmp(argv[1], "send"))
        send_stream(type_of(argv[2]), argv[3], argv[4], strtoull(argv[5], NULL, 10));
    else if (argc == 5 && !strcmp(argv[1], "fill"))
        fill(argv[2], argv[3], strtod(argv[4], NULL));
    else if (argc == 4 && !strcmp(argv[1], "capture"))
        capture(argv[2], argv[3]);
    else {
        fputs("usage: traffic receive tcp|udp PORT, send tcp|udp ADDRESS PORT BYTES, fill ADDRESS PORT SECONDS, "
              "capture INTERFACE FILE\n", stderr);
        return 2;
    }
    return 0;
}
