"""Frames of an endpoint that its program holds: a sequence of memoryviews, until they are given back or sent."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES, NET_HDR_F_NEEDS_CSUM, NetHeader
from fastvhost.dataplane.ports.endpoint_slots cimport EndpointSlots, header_of, slot_at
from fastvhost.dataplane.ports.parcels cimport Parcel

from fastvhost.dataplane.offload.asked import PLAIN, Offload, fault

cdef object BY_ENDPOINT = object()  # the argument by which an endpoint makes a burst; programs do not have it


cdef class Burst:
    """Frames in the endpoint's memory: a sequence of writable memoryviews, the program's until release() or send()."""

    def __cinit__(self, maker=None) -> None:
        if maker is not BY_ENDPOINT:
            raise TypeError("a Burst is not made by itself; Endpoint.recv and Endpoint.lend return one")

    def __len__(self) -> int:
        return self.n

    cdef Parcel *at(self, Py_ssize_t index) except NULL:
        """The frame of this number; a negative one counts from the end. Raises IndexError."""
        if index < 0:
            index += self.n
        if self.gone or not 0 <= index < self.n:
            raise IndexError("the burst was given back" if self.gone else "no frame of that number in the burst")
        return &self.parcels[index]

    def __getitem__(self, Py_ssize_t index) -> memoryview:
        cdef Parcel *parcel = self.at(index)
        cdef Py_ssize_t start = <Py_ssize_t>parcel.slot * self.endpoint.slot_bytes
        return self.endpoint.view[start:start + parcel.bytes]

    def __iter__(self):
        cdef uint32_t i
        for i in range(self.n):
            yield self[i]

    def resize(self, Py_ssize_t index, Py_ssize_t bytes) -> memoryview:
        cdef Parcel *parcel = self.at(index)
        if not ETHER_HEADER_BYTES <= bytes <= self.endpoint.slot_bytes:
            raise ValueError(f"a frame of {bytes} bytes; 14 to {self.endpoint.slot_bytes} are possible")
        parcel.bytes = <uint32_t>bytes
        return self[index]

    def fill(self, frame) -> None:
        cdef Py_buffer source
        cdef uint32_t i
        cdef Parcel *parcel
        PyObject_GetBuffer(frame, &source, PyBUF_SIMPLE)
        try:
            if not ETHER_HEADER_BYTES <= source.len <= self.endpoint.slot_bytes:
                raise ValueError(f"a frame of {source.len} bytes; 14 to {self.endpoint.slot_bytes} are possible")
            if self.gone:
                raise IndexError("the burst was given back")
            for i in range(self.n):
                parcel = &self.parcels[i]
                memcpy(slot_at(self.endpoint, parcel), source.buf, source.len)
                parcel.bytes = <uint32_t>source.len
                ask(self.endpoint, parcel, PLAIN)
        finally:
            PyBuffer_Release(&source)

    def offload(self, Py_ssize_t index) -> Offload:
        return asked_of(self.endpoint, self.at(index))

    def set_offload(self, Py_ssize_t index, asked) -> None:
        cdef Parcel *parcel = self.at(index)
        if not isinstance(asked, Offload):
            raise TypeError(f"{type(asked).__name__} is no fastvhost.Offload")
        if self.endpoint.side.headers == NULL and asked != PLAIN:
            raise ValueError(f"endpoint {self.endpoint.name} takes plain frames; make it with offloads=True")
        problem = fault(asked, parcel.bytes)
        if problem:
            raise ValueError(problem)
        parcel = self.at(index)  # comparing may have run code of the program, which may have given the burst back
        ask(self.endpoint, parcel, asked)

    cdef int check_offloads(self) except -1:
        """Check what frames ask for once more: their lengths may have changed since. Raises ValueError."""
        cdef uint32_t i
        cdef NetHeader *header
        for i in range(self.n):
            header = header_of(self.endpoint, &self.parcels[i])
            if header == NULL or not (header.flags or header.gso_type):
                continue
            problem = fault(asked_of(self.endpoint, &self.parcels[i]), self.parcels[i].bytes)
            if problem:
                raise ValueError(f"frame {i}: {problem}")
        return 0

    def stamp(self, uint32_t at, uint32_t first) -> None:
        cdef uint32_t i
        if self.gone:
            raise IndexError("the burst was given back")
        for i in range(self.n):
            if <uint64_t>at + 4 > self.parcels[i].bytes:
                raise ValueError(f"no room for a number at {at} in a frame of {self.parcels[i].bytes} bytes")
        for i in range(self.n):
            store_big_endian(slot_at(self.endpoint, &self.parcels[i]) + at, first + i)

    def numbers(self, frame, uint32_t at) -> list:
        cdef Py_buffer model
        cdef const uint8_t *wanted
        cdef const uint8_t *there
        cdef uint32_t i
        if self.gone:
            raise IndexError("the burst was given back")
        found = [-1] * self.n
        PyObject_GetBuffer(frame, &model, PyBUF_SIMPLE)
        try:
            if <uint64_t>model.len < <uint64_t>at + 4:
                raise ValueError(f"no number at {at} in a frame of {model.len} bytes")
            wanted = <const uint8_t *>model.buf
            for i in range(self.n):
                there = slot_at(self.endpoint, &self.parcels[i])
                if (
                    self.parcels[i].bytes == model.len
                    and memcmp(there, wanted, at) == 0
                    and memcmp(there + at + 4, wanted + at + 4, model.len - at - 4) == 0
                ):
                    found[i] = load_big_endian(there + at)
        finally:
            PyBuffer_Release(&model)
        return found

    def release(self) -> None:
        if not self.gone:
            self.gone = True
            self.endpoint.put_back(self.parcels, self.n, self.lent)

    def __enter__(self) -> "Burst":
        return self

    def __exit__(self, *exc) -> None:
        self.release()

    def __dealloc__(self) -> None:
        if not self.gone and self.endpoint is not None and self.parcels != NULL:
            self.endpoint.put_back(self.parcels, self.n, self.lent)
        free(self.parcels)


cdef object asked_of(EndpointSlots endpoint, const Parcel *parcel):
    cdef const NetHeader *header = header_of(endpoint, parcel)
    if header == NULL:
        return PLAIN
    return Offload(
        bool(header.flags & NET_HDR_F_NEEDS_CSUM), header.csum_start, header.csum_offset, header.gso_type,
        header.gso_size, header.hdr_len,
    )


cdef int ask(EndpointSlots endpoint, const Parcel *parcel, object asked) except -1:
    """Set what the frame of a parcel leaves to its receiver. asked: an Offload without fault."""
    cdef NetHeader *header = header_of(endpoint, parcel)
    cdef NetHeader new = NetHeader(
        NET_HDR_F_NEEDS_CSUM if asked.needs_csum else 0, asked.gso_type, asked.hdr_len, asked.gso_size,
        asked.csum_start, asked.csum_offset, 1,
    )
    if header != NULL:
        header[0] = new
    return 0


cdef void store_big_endian(uint8_t *at, uint32_t number) noexcept nogil:
    at[0], at[1], at[2], at[3] = number >> 24, (number >> 16) & 255, (number >> 8) & 255, number & 255


cdef uint32_t load_big_endian(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef Burst new_burst(EndpointSlots endpoint, uint32_t most, bint lent):
    """An empty burst with room for `most` frames. lent: of slots from lend_slots, not of frames that arrived."""
    cdef Burst burst = Burst.__new__(Burst, BY_ENDPOINT)
    burst.endpoint, burst.lent = endpoint, lent
    burst.parcels = <Parcel *>malloc((most or 1) * sizeof(Parcel))
    if burst.parcels == NULL:
        raise MemoryError
    return burst
