"""Capture files through libpcap, played into an endpoint and recorded from one. pcap-savefile(5).

Files are read and written by threads of their own, so that a slow disk makes no worker wait. A pipe or a file server
may never answer, so calls into libpcap that may wait do so without the GIL.
"""

import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES
from fastvhost.dataplane.ports.endpoint cimport Endpoint
from fastvhost.dataplane.ports.endpoint_slots cimport slot_at
from fastvhost.dataplane.ports.parcels cimport Parcel
from fastvhost.dataplane.ports.pcap_library cimport (
    DLT_EN10MB,
    PCAP_ERRBUF_SIZE,
    load_pcap_library,
    pcap_dumper_t,
    pcap_library,
    pcap_pkthdr,
    pcap_t,
)

from fastvhost.dataplane.ports.pcap import PcapError

cdef enum:
    SNAPSHOT_BYTES = 262144


cdef int need_library() except -1:
    cdef const char *problem = load_pcap_library()
    if problem != NULL:
        raise PcapError(problem.decode(), "library")
    return 0


cdef class CaptureFile:
    """What Player and Recorder share: one call at a time works on the file, and the file is closed after it.

    A call may wait for the file without the GIL, so calls of other threads are possible meanwhile, and refused.
    """

    cdef pcap_t *handle
    cdef bint busy             # a call works on it
    cdef bint closing          # to be closed when that call returns

    cdef int begin(self) except -1:
        if self.busy or self.closing:
            raise ValueError(f"a capture file {'is closed' if self.closing else 'is used by one thread at a time'}")
        self.busy = True
        return 0

    cdef int finish(self) except -1:
        self.busy = False
        if self.closing:
            self.let_go()
        return 0

    cdef void let_go(self) noexcept:
        pass

    def close(self) -> None:
        self.closing = True
        if not self.busy:
            self.let_go()


cdef class Player(CaptureFile):
    """A capture file, open for reading. Raises PcapError where it is none, or no Ethernet."""

    cdef pcap_pkthdr *header   # the frame looked at, and not sent yet
    cdef const unsigned char *data
    cdef int64_t first_us
    cdef readonly uint64_t skipped
    cdef readonly uint64_t played
    cdef readonly bint ended
    cdef public bint given_up  # a call that waits for the file must not use the endpoint after that

    def __cinit__(self, *args, **kwargs) -> None:
        self.ended = True  # until a file is open

    def __init__(self, str path) -> None:
        cdef char errbuf[PCAP_ERRBUF_SIZE]
        cdef bytes name = os.fsencode(path)
        cdef const char *file = name
        need_library()
        if self.handle != NULL:
            raise ValueError(f"{path}: a file is opened once")
        errbuf[0] = 0
        self.begin()
        try:
            with nogil:
                self.handle = pcap_library.open_offline(file, errbuf)
            if self.handle == NULL:
                raise PcapError((<bytes>errbuf).decode(errors="replace"), "missing")
            if pcap_library.datalink(self.handle) != DLT_EN10MB:
                self.close()
                raise PcapError(f"{path}: its frames are not Ethernet frames; give another file", "other")
            self.first_us = -1
            self.ended = False
            with nogil:
                self.look()
        finally:
            self.finish()

    cdef void look(self) noexcept nogil:
        """Read on to the next frame that can be sent, or to the end. Waits for the file."""
        while pcap_library.next_ex(self.handle, &self.header, &self.data) == 1:
            if self.first_us < 0:
                self.first_us = self.recorded_us()
            if self.header.caplen == self.header.len and self.header.caplen >= ETHER_HEADER_BYTES:
                return
            self.skipped += 1
        self.ended = True

    cdef int64_t due(self) noexcept nogil:
        return <int64_t>(<uint64_t>self.recorded_us() - <uint64_t>self.first_us)

    cdef int64_t recorded_us(self) noexcept nogil:
        """The frame's time. A time in the file that makes no sense may wrap, and harms nothing."""
        return <int64_t>(<uint64_t>self.header.ts.tv_sec * 1000000 + <uint64_t>self.header.ts.tv_usec)

    def play(self, Endpoint endpoint not None, uint32_t most, int64_t until_us) -> int:
        if self.ended:
            return 0
        self.begin()
        try:
            return self.play_on(endpoint, most, until_us)
        finally:
            self.finish()

    cdef uint32_t play_on(self, Endpoint endpoint, uint32_t most, int64_t until_us) except? 0xffffffff:
        cdef Parcel parcel
        cdef uint32_t sent = 0
        while sent < most and not self.ended and not self.given_up and (until_us < 0 or self.due() <= until_us):
            if self.header.caplen > endpoint.slot_bytes:
                self.skipped += 1
                with nogil:
                    self.look()
                continue
            if endpoint.lend_slots(&parcel, 1) == 0:
                break
            memcpy(slot_at(endpoint, &parcel), self.data, self.header.caplen)
            parcel.bytes = self.header.caplen
            endpoint.pass_on(&parcel, 1)
            sent += 1
            self.played += 1
            with nogil:
                self.look()
        return sent

    def next_us(self) -> int:
        return -1 if self.ended or self.busy else self.due()

    cdef void let_go(self) noexcept:
        cdef pcap_t *handle = self.handle
        self.ended = True
        self.handle = NULL
        if handle != NULL:
            with nogil:
                pcap_library.close(handle)

    def __dealloc__(self) -> None:
        self.let_go()


cdef class Recorder(CaptureFile):
    """A capture file, open for writing: microseconds, Ethernet. Raises PcapError."""

    cdef pcap_dumper_t *dumper

    def __init__(self, str path) -> None:
        cdef bytes name = os.fsencode(path)
        cdef const char *file = name
        need_library()
        if self.handle != NULL:
            raise ValueError(f"{path}: a file is opened once")
        self.begin()
        try:
            self.handle = pcap_library.open_dead(DLT_EN10MB, SNAPSHOT_BYTES)
            if self.handle == NULL:
                raise MemoryError
            with nogil:
                self.dumper = pcap_library.dump_open(self.handle, file)
            if self.dumper == NULL:
                text = (<bytes>pcap_library.geterr(self.handle)).decode(errors="replace")
                self.close()
                raise PcapError(text, "other")
        finally:
            self.finish()

    def record(self, Endpoint endpoint not None, uint32_t most) -> int:
        self.need_file()
        try:
            return self.record_on(endpoint, most)
        finally:
            self.finish()

    cdef uint32_t record_on(self, Endpoint endpoint, uint32_t most) except? 0xffffffff:
        cdef Parcel parcels[64]
        cdef uint32_t i, n = endpoint.take(parcels, min(most, <uint32_t>64))
        cdef pcap_pkthdr header
        cdef timespec now
        clock_gettime(CLOCK_REALTIME, &now)
        header.ts.tv_sec, header.ts.tv_usec = now.tv_sec, now.tv_nsec // 1000
        with nogil:
            for i in range(n):
                header.caplen = header.len = parcels[i].bytes
                pcap_library.dump(<unsigned char *>self.dumper, &header, slot_at(endpoint, &parcels[i]))
        endpoint.put_back(parcels, n, False)
        return n

    cdef int need_file(self) except -1:
        if self.dumper == NULL:
            raise ValueError("a recorder writes to an open file; this one was never opened, or is closed")
        return self.begin()

    def flush(self) -> bool:
        cdef int status
        self.need_file()
        with nogil:
            status = pcap_library.dump_flush(self.dumper)
        self.finish()
        return status == 0

    cdef void let_go(self) noexcept:
        cdef pcap_dumper_t *dumper = self.dumper
        cdef pcap_t *handle = self.handle
        self.dumper, self.handle = NULL, NULL
        with nogil:
            if dumper != NULL:
                pcap_library.dump_close(dumper)
            if handle != NULL:
                pcap_library.close(handle)

    def __dealloc__(self) -> None:
        self.let_go()
