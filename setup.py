"""Builds the Cython data plane. Everything that is not a compiler matter stands in pyproject.toml.

What the environment may ask for:
FASTVHOST_PROBES=1           also the def wrappers over nogil functions that tests and benches use (tests/probes)
FASTVHOST_SANITIZE=address   a build that reports memory errors, a list as -fsanitize takes it. It wants a directory of
                             its own, build --build-base DIR, and the sanitizer's library in LD_PRELOAD to be loaded
FASTVHOST_DEBUG=1            a build that checks its own promises as it works (dataplane/debug.h) and the bounds of
                             arrays, and ends where one is broken. It wants a directory of its own as well
FASTVHOST_CFLAGS, _LDFLAGS   more options for compiler and linker
FASTVHOST_ANNOTATE=1         Cython's annotated sources beside the C
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# No -march: a wheel built anywhere runs everywhere; wide vectors are chosen at run time (dataplane/copy.h).
CFLAGS = ["-O3", "-g", "-Wall", "-Wextra", "-fno-strict-aliasing"]
# What generated C cannot help, and no more than that.
CFLAGS += ["-Wno-unused-function", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
SANITIZE = os.environ.get("FASTVHOST_SANITIZE", "")
SANITIZED = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
# Less optimised, a report names the line.
CFLAGS += [*SANITIZED, "-O1", "-fno-omit-frame-pointer"] if SANITIZE else []
if os.environ.get("FASTVHOST_DEBUG"):
    CFLAGS += ["-DFASTVHOST_DEBUG=1", "-O1"]
    # Without a sanitizer to report it: a trap.
    CFLAGS += [] if SANITIZE else ["-fsanitize=bounds", "-fsanitize-undefined-trap-on-error", "-D_FORTIFY_SOURCE=2"]
CFLAGS += os.environ.get("FASTVHOST_CFLAGS", "").split()
LDFLAGS = ["-pthread", *SANITIZED, *os.environ.get("FASTVHOST_LDFLAGS", "").split()]

DIRECTIVES = {
    "language_level": 3,
    # Checks of Python objects, of which the packet path has none: a program's odd argument raises, it crashes nothing.
    # (Not "nonecheck": Cython then looks whether self is None in functions without the GIL, too.)
    "boundscheck": True,
    "wraparound": True,
    "initializedcheck": True,
    "cdivision": True,  # else a division takes the GIL; so `//` and `%` have unsigned operands only (tests/house)
    "binding": True,
    "embedsignature": True,
    "annotation_typing": False,  # C types are declared with cdef; annotations are for readers and mypy
}

HERE = Path(__file__).resolve().parent
HEADERS = [str(p.relative_to(HERE)) for p in sorted(HERE.glob("fastvhost/**/*.h"))]


def extension(source: Path) -> Extension:
    """One extension module for one .pyx, named after its place in the package."""
    path = source.relative_to(HERE)
    return Extension(
        ".".join(path.with_suffix("").parts),
        [str(path)],
        include_dirs=["."],
        depends=HEADERS,
        extra_compile_args=[*CFLAGS, "-pthread"],
        extra_link_args=LDFLAGS,
        define_macros=[
            ("FASTVHOST_GUARD_PAGES", str(int(bool(SANITIZE)))),  # around mapped guest memory: dataplane/map_region.h
            *([("FASTVHOST_BUILD_FLAGS", '"' + " ".join(CFLAGS) + '"')] if path.stem == "_build" else []),
        ],
    )


os.chdir(HERE)  # Cython wants paths relative to the package's root, whatever directory the build starts in.
CPUS = len(os.sched_getaffinity(0))
# A process that Cython starts in another way than by fork would run this file once more.
TRANSLATED_AT_ONCE = CPUS if multiprocessing.get_start_method() == "fork" else 0
PATTERNS = ["fastvhost/**/*.pyx"] + (["tests/probes/*.pyx"] if os.environ.get("FASTVHOST_PROBES") else [])
setup(
    ext_modules=cythonize(
        [extension(p) for pattern in PATTERNS for p in sorted(HERE.glob(pattern))],
        compiler_directives=DIRECTIVES,
        show_all_warnings=True,
        annotate=bool(os.environ.get("FASTVHOST_ANNOTATE")),
        nthreads=TRANSLATED_AT_ONCE,
    ),
    options={"build_ext": {"parallel": CPUS}},  # pip has no word for it
)
