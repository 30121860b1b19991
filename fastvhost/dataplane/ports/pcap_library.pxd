"""libpcap, loaded at run time. See pcap_library.h."""

from libc.stdint cimport uint32_t


cdef extern from "fastvhost/dataplane/ports/pcap_library.h" nogil:
    struct timeval:
        long tv_sec
        long tv_usec
    ctypedef struct pcap_t:
        pass
    ctypedef struct pcap_dumper_t:
        pass
    struct pcap_pkthdr:
        timeval ts
        uint32_t caplen
        uint32_t len
    struct pcap_stat:
        unsigned int ps_recv
        unsigned int ps_drop
        unsigned int ps_ifdrop
    ctypedef void (*pcap_handler)(unsigned char *user, const pcap_pkthdr *, const unsigned char *) noexcept nogil

    enum:
        PCAP_ERRBUF_SIZE
        PCAP_D_IN
        DLT_EN10MB
        PCAP_ERROR_NO_SUCH_DEVICE
        PCAP_ERROR_PERM_DENIED
        PCAP_ERROR_IFACE_NOT_UP
        PCAP_ERROR_PROMISC_PERM_DENIED

    struct pcap_library_t "pcap_library":
        pcap_t *(*create)(const char *device, char *errbuf) noexcept nogil
        int (*set_snaplen)(pcap_t *, int) noexcept nogil
        int (*set_promisc)(pcap_t *, int) noexcept nogil
        int (*set_immediate_mode)(pcap_t *, int) noexcept nogil
        int (*set_buffer_size)(pcap_t *, int) noexcept nogil
        int (*activate)(pcap_t *) noexcept nogil
        int (*setnonblock)(pcap_t *, int nonblock, char *errbuf) noexcept nogil
        int (*setdirection)(pcap_t *, int direction) noexcept nogil
        int (*datalink)(pcap_t *) noexcept nogil
        int (*get_selectable_fd)(pcap_t *) noexcept nogil
        int (*dispatch)(pcap_t *, int count, pcap_handler, unsigned char *user) noexcept nogil
        void (*breakloop)(pcap_t *) noexcept nogil
        int (*inject)(pcap_t *, const void *data, size_t n) noexcept nogil
        int (*stats)(pcap_t *, pcap_stat *) noexcept nogil
        const char *(*statustostr)(int) noexcept nogil
        char *(*geterr)(pcap_t *) noexcept nogil
        void (*close)(pcap_t *) noexcept nogil
        pcap_t *(*open_offline)(const char *file, char *errbuf) noexcept nogil
        int (*next_ex)(pcap_t *, pcap_pkthdr **, const unsigned char **) noexcept nogil
        pcap_t *(*open_dead)(int linktype, int snaplen) noexcept nogil
        pcap_dumper_t *(*dump_open)(pcap_t *, const char *file) noexcept nogil
        void (*dump)(unsigned char *dumper, const pcap_pkthdr *, const unsigned char *) noexcept nogil
        int (*dump_flush)(pcap_dumper_t *) noexcept nogil
        void (*dump_close)(pcap_dumper_t *) noexcept nogil
        const char *(*lib_version)() noexcept nogil

    pcap_library_t pcap_library
    const char *load_pcap_library()
