/* libpcap, loaded at run time. pcap(3PCAP). What is used of it is declared here: a build needs no files of libpcap.
 *
 * The names and layouts below are its stable interface, the same since libpcap 1.0.
 */
#ifndef FASTVHOST_PCAP_LIBRARY_H
#define FASTVHOST_PCAP_LIBRARY_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/time.h>

typedef struct pcap pcap_t;
typedef struct pcap_dumper pcap_dumper_t;
struct pcap_pkthdr {
    struct timeval ts;
    uint32_t caplen;    /* bytes that are there */
    uint32_t len;       /* bytes that the frame had */
};
struct pcap_stat {
    unsigned int ps_recv, ps_drop, ps_ifdrop;
};
typedef void (*pcap_handler)(unsigned char *user, const struct pcap_pkthdr *header, const unsigned char *bytes);

enum {
    PCAP_ERRBUF_SIZE = 256,
    PCAP_D_IN = 1,
    DLT_EN10MB = 1,
    PCAP_ERROR_NO_SUCH_DEVICE = -5,
    PCAP_ERROR_PERM_DENIED = -8,
    PCAP_ERROR_IFACE_NOT_UP = -9,
    PCAP_ERROR_PROMISC_PERM_DENIED = -11,
};

struct pcap_library {
    void *handle;
    pcap_t *(*create)(const char *device, char *errbuf);
    int (*set_snaplen)(pcap_t *, int);
    int (*set_promisc)(pcap_t *, int);
    int (*set_immediate_mode)(pcap_t *, int);
    int (*set_buffer_size)(pcap_t *, int);
    int (*activate)(pcap_t *);
    int (*setnonblock)(pcap_t *, int nonblock, char *errbuf);
    int (*setdirection)(pcap_t *, int direction);
    int (*datalink)(pcap_t *);
    int (*get_selectable_fd)(pcap_t *);
    int (*dispatch)(pcap_t *, int count, pcap_handler, unsigned char *user);
    void (*breakloop)(pcap_t *);
    int (*inject)(pcap_t *, const void *bytes, size_t n);
    int (*stats)(pcap_t *, struct pcap_stat *);
    const char *(*statustostr)(int);
    char *(*geterr)(pcap_t *);
    void (*close)(pcap_t *);
    pcap_t *(*open_offline)(const char *file, char *errbuf);
    int (*next_ex)(pcap_t *, struct pcap_pkthdr **, const unsigned char **);
    pcap_t *(*open_dead)(int linktype, int snaplen);
    pcap_dumper_t *(*dump_open)(pcap_t *, const char *file);
    void (*dump)(unsigned char *dumper, const struct pcap_pkthdr *, const unsigned char *);
    int (*dump_flush)(pcap_dumper_t *);
    void (*dump_close)(pcap_dumper_t *);
    const char *(*lib_version)(void);
};

static struct pcap_library pcap_library;

/* Loads the library. Returns NULL, or why it cannot be used. Called with the GIL held. */
static const char *load_pcap_library(void)
{
    static const char *const names[] = {"libpcap.so.0.8", "libpcap.so.1", "libpcap.so"};
    struct pcap_library lib = {0};
    const char *asked = getenv("FASTVHOST_LIBPCAP");
    if (pcap_library.handle)
        return NULL;
    if (asked)
        lib.handle = dlopen(asked, RTLD_NOW | RTLD_LOCAL);
    else
        for (unsigned i = 0; i < sizeof names / sizeof *names && !lib.handle; i++)
            lib.handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!lib.handle)
        return "libpcap is not installed; as root: apt-get install libpcap0.8";
#define FIND(name) \
    if (!(*(void **)&lib.name = dlsym(lib.handle, "pcap_" #name))) { \
        dlclose(lib.handle); \
        return "this libpcap is too old, it lacks pcap_" #name "; install libpcap 1.5 or newer"; \
    }
    FIND(create) FIND(set_snaplen) FIND(set_promisc) FIND(set_immediate_mode) FIND(set_buffer_size) FIND(activate)
    FIND(setnonblock) FIND(setdirection) FIND(datalink) FIND(get_selectable_fd) FIND(dispatch) FIND(breakloop)
    FIND(inject) FIND(stats) FIND(statustostr) FIND(geterr) FIND(close) FIND(open_offline) FIND(next_ex)
    FIND(open_dead) FIND(dump_open) FIND(dump) FIND(dump_flush) FIND(dump_close) FIND(lib_version)
#undef FIND
    pcap_library = lib;
    return NULL;
}

#endif
