/*
 * Tells how many queue pairs a network interface uses, or sets it: what `ethtool -l` and `ethtool -L ... combined N` do.
 *
 * usage: channels INTERFACE [N]
 */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int request(const char *interface, struct ethtool_channels *channels, unsigned int command)
{
    struct ifreq about = {.ifr_data = (char *)channels};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    strncpy(about.ifr_name, interface, sizeof about.ifr_name - 1);
    channels->cmd = command;
    if (fd >= 0 && ioctl(fd, SIOCETHTOOL, &about) == 0)
        return 0;
    perror(interface);
    return 1;
}

int main(int argc, char **argv)
{
    struct ethtool_channels channels = {0};

    if (argc < 2 || argc > 3) {
        fputs("usage: channels INTERFACE [N]\n", stderr);
        return 2;
    }
    if (request(argv[1], &channels, ETHTOOL_GCHANNELS))
        return 1;
    if (argc == 3) {
        channels.combined_count = (unsigned int)atoi(argv[2]);
        if (request(argv[1], &channels, ETHTOOL_SCHANNELS) || request(argv[1], &channels, ETHTOOL_GCHANNELS))
            return 1;
    }
    printf("%u of %u\n", channels.combined_count, channels.max_combined);
    return 0;
}
