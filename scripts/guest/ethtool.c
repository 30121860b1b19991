/*
 * Of ethtool(8) what tests do by hand in a guest: queue pairs in use, sizes of rings, offloads. Static, with no library.
 *
 * usage: ethtool -l|-g|-k INTERFACE
 *        ethtool -L INTERFACE combined N
 *        ethtool -G INTERFACE rx|tx N
 *        ethtool -K INTERFACE gro|gso|tso|sg|tx|rx on|off
 *
 * Prints what holds then: "2 of 4" pairs, "rx 256 of 256, tx 256 of 256" entries, or what is on. What the driver does
 * not do ends with 1 and the kernel's word for it.
 */
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static const struct {
    const char *name;
    unsigned int get, set;
} OFFLOADS[] = {
    {"gro", ETHTOOL_GGRO, ETHTOOL_SGRO},       {"gso", ETHTOOL_GGSO, ETHTOOL_SGSO},
    {"tso", ETHTOOL_GTSO, ETHTOOL_STSO},       {"sg", ETHTOOL_GSG, ETHTOOL_SSG},
    {"tx", ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM},  {"rx", ETHTOOL_GRXCSUM, ETHTOOL_SRXCSUM},
};
enum { KINDS = sizeof OFFLOADS / sizeof *OFFLOADS };

static const char *interface;

static void ask(unsigned int command, void *about)
{
    struct ifreq request = {.ifr_data = about};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    strncpy(request.ifr_name, interface, sizeof request.ifr_name - 1);
    *(unsigned int *)about = command;
    if (fd >= 0 && ioctl(fd, SIOCETHTOOL, &request) == 0)
        return;
    fprintf(stderr, "ethtool: %s: %s\n", interface, strerror(errno));
    exit(1);
}

static int usage(void)
{
    fputs("usage: ethtool -l|-g|-k INTERFACE, -L INTERFACE combined N, -G INTERFACE rx|tx N, "
          "-K INTERFACE gro|gso|tso|sg|tx|rx on|off\n", stderr);
    return 2;
}

static int channels(const char *what, const char *value)
{
    struct ethtool_channels found = {0};

    ask(ETHTOOL_GCHANNELS, &found);
    if (what) {
        if (strcmp(what, "combined"))
            return usage();
        found.combined_count = (unsigned int)atoi(value);
        ask(ETHTOOL_SCHANNELS, &found);
        ask(ETHTOOL_GCHANNELS, &found);
    }
    printf("%u of %u\n", found.combined_count, found.max_combined);
    return 0;
}

static int rings(const char *what, const char *value)
{
    struct ethtool_ringparam found = {0};

    ask(ETHTOOL_GRINGPARAM, &found);
    if (what) {
        if (strcmp(what, "rx") && strcmp(what, "tx"))
            return usage();
        *(strcmp(what, "rx") ? &found.tx_pending : &found.rx_pending) = (unsigned int)atoi(value);
        ask(ETHTOOL_SRINGPARAM, &found);
        ask(ETHTOOL_GRINGPARAM, &found);
    }
    printf("rx %u of %u, tx %u of %u\n", found.rx_pending, found.rx_max_pending, found.tx_pending, found.tx_max_pending);
    return 0;
}

static int offloads(const char *what, const char *value)
{
    struct ethtool_value found = {0};
    int known = !what;

    for (int i = 0; i < KINDS; i++)
        if (what && !strcmp(what, OFFLOADS[i].name)) {
            found.data = !strcmp(value, "on");
            ask(OFFLOADS[i].set, &found);
            known = 1;
        }
    if (!known)
        return usage();
    for (int i = 0; i < KINDS; i++) {
        ask(OFFLOADS[i].get, &found);
        if (found.data)
            printf("%s ", OFFLOADS[i].name);
    }
    puts("");
    return 0;
}

int main(int argc, char **argv)
{
    const char *option = argc > 1 ? argv[1] : "";
    int sets = strlen(option) == 2 && strchr("LGK", option[1]);

    if (strlen(option) != 2 || option[0] != '-' || !strchr("lLgGkK", option[1]) || argc != (sets ? 5 : 3))
        return usage();
    interface = argv[2];
    switch (option[1] | 0x20) {
    case 'l':
        return channels(sets ? argv[3] : NULL, sets ? argv[4] : NULL);
    case 'g':
        return rings(sets ? argv[3] : NULL, sets ? argv[4] : NULL);
    default:
        return offloads(sets ? argv[3] : NULL, sets ? argv[4] : NULL);
    }
}
