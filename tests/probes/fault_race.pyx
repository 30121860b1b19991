"""The handler of SIGBUS, stopped in the middle, while guards of other mappings come and go."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from posix.mman cimport MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE, mmap, munmap

cdef extern from *:
    """
    #include <unistd.h>
    static int fault_pause, fault_paused;
    #define FAULT_GUARD_PAUSE() do { \\
        if (__atomic_load_n(&fault_pause, __ATOMIC_ACQUIRE)) { \\
            __atomic_store_n(&fault_paused, 1, __ATOMIC_RELEASE); \\
            while (__atomic_load_n(&fault_pause, __ATOMIC_ACQUIRE)) usleep(100); \\
        } } while (0)
    #include "fastvhost/dataplane/fault_guard.h"
    static void set_pause(int on) { __atomic_store_n(&fault_pause, on, __ATOMIC_RELEASE); }
    static int is_paused(void) { return __atomic_load_n(&fault_paused, __ATOMIC_ACQUIRE); }
    static void disarm(void) { sigaction(SIGBUS, &fault_previous, NULL); }
    static void touch_byte(const uint8_t *at) { *(const volatile uint8_t *)at; }
    """
    struct fault_guard:
        pass
    int arm_fault_guards() nogil
    fault_guard *guard_mapping(uint8_t *base, size_t bytes) nogil
    void unguard_mapping(fault_guard *guard) nogil
    int guard_faulted(const fault_guard *guard) nogil
    void guard_attention(fault_guard *guard, int fd) nogil
    void set_pause(int on) nogil
    int is_paused() nogil
    void disarm() nogil
    void touch_byte(const uint8_t *at) nogil

cdef size_t PAGE = 4096


cdef class Scene:
    """Four pages: a small mapping, two of nobody's, and one whose file is too short. Each has a guard but nobody's."""

    cdef uint8_t *at
    cdef fault_guard *small
    cdef fault_guard *short

    def __cinit__(self, int good, int short) -> None:
        self.at = <uint8_t *>mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        mmap(self.at, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, good, 0)
        mmap(self.at + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, short, 0)
        arm_fault_guards()
        self.short = guard_mapping(self.at + 3 * PAGE, PAGE)
        self.small = guard_mapping(self.at, PAGE)  # the handler looks at it first
        set_pause(1)

    @property
    def paused(self) -> bool:
        return is_paused() != 0

    def fault(self) -> None:
        with nogil:
            touch_byte(self.at + 3 * PAGE)

    def replace(self, int larger) -> None:
        """Another mapping takes the place of the small one, with all pages but the last."""
        with nogil:
            unguard_mapping(self.small)
            mmap(self.at, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, larger, 0)
            self.small = guard_mapping(self.at, 4 * PAGE)

    def go_on(self) -> None:
        set_pause(0)

    @property
    def faulted(self) -> tuple[bool, bool]:
        """The small one's guard, and the other's."""
        return guard_faulted(self.small) != 0, guard_faulted(self.short) != 0

    def first_byte(self) -> int:
        return self.at[0]

    def close(self) -> None:
        unguard_mapping(self.small)
        unguard_mapping(self.short)
        munmap(self.at, 4 * PAGE)
        disarm()
