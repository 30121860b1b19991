"""Checks of a debug build, and poison for scratch memory. See debug.h.

What takes a loop, or more than a comparison, stands behind `if DEBUG:`, which compilers leave out of other builds.
"""

cdef extern from "fastvhost/dataplane/debug.h" nogil:
    enum:
        DEBUG "FASTVHOST_DEBUG"
    void check(bint holds, const char *what)
    void poison(void *at, size_t bytes)
