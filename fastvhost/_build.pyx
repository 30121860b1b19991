"""How this copy was compiled. Read through fastvhost.build_info()."""

from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #define FASTVHOST_COMPILER __VERSION__
    #define FASTVHOST_CYTHON CYTHON_HEX_VERSION
    #if defined(__clang__)
    #define FASTVHOST_COMPILER_NAME "clang"
    #else
    #define FASTVHOST_COMPILER_NAME "gcc"
    #endif
    """
    const char *FASTVHOST_BUILD_FLAGS
    const char *FASTVHOST_COMPILER_NAME
    const char *FASTVHOST_COMPILER
    const uint32_t FASTVHOST_CYTHON


def flags() -> str:
    """The compiler flags, as setup.py gave them."""
    return FASTVHOST_BUILD_FLAGS.decode()


def compiler() -> str:
    """The compiler and its version."""
    return f"{FASTVHOST_COMPILER_NAME.decode()} {FASTVHOST_COMPILER.decode()}"


def cython() -> str:
    """The version of Cython that wrote the C."""
    number = FASTVHOST_CYTHON
    return f"{number >> 24}.{(number >> 16) & 0xff}.{(number >> 8) & 0xff}"
