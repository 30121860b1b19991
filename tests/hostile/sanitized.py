"""fastvhost built with AddressSanitizer and UndefinedBehaviorSanitizer, and how such a build is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.hostile.backend import Starter

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = "address,undefined"
UNOPTIMIZED = "-O0 -g1"
"""Behind the compiler's other options: the build takes two fifths of the CPU time, and the tests take as long."""
OPTIONS = {
    "ASAN_OPTIONS": {
        "detect_leaks": 0,  # the interpreter itself leaks
        "handle_sigbus": 0,  # handled by fault_guard.h
        "allow_user_segv_handler": 1,
        "allocator_may_return_null": 1,  # what is too much is refused, as without it
        "max_allocation_size_mb": 4096,
        "detect_stack_use_after_return": 1,
        "exitcode": 99,
    },
    "UBSAN_OPTIONS": {"halt_on_error": 1, "print_stacktrace": 1},
}


def library(name: str) -> str:
    """The path of a sanitizer's library, according to the compiler."""
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_absolute(), f"gcc has no {name}; install libgcc-12-dev or the like"
    return found.strip()


def build(where: Path) -> Path:
    """Build the package there, or the changed parts of it. Returns the directory to run it from."""
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(where), "--parallel", "2"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTVHOST_")}
    environment |= {"FASTVHOST_SANITIZE": SANITIZERS, "FASTVHOST_DEBUG": "1", "FASTVHOST_CFLAGS": UNOPTIMIZED}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = where.glob("lib.*")
    return found


def environment() -> dict[str, str]:
    """Environment variables to load the result of build()."""
    found = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found["LD_PRELOAD"] = f"{library('libasan.so')} {library('libubsan.so')}"
    for name, options in OPTIONS.items():
        found[name] = ":".join(f"{key}={value}" for key, value in options.items())
    return found


def run(package: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """An interpreter with these arguments, to its end. It imports what `build` made, and nothing of the checkout."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=package,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def sanitized(package: Path) -> Starter:
    """Starts the fwd that build() made."""

    def start(arguments: list[str], log_path: Path) -> subprocess.Popen[bytes]:
        # -m prefers the current directory to an installed package.
        command = [sys.executable, "-m", "fastvhost", *arguments]
        with log_path.open("a") as log:
            return subprocess.Popen(
                command, cwd=package, env=environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    return start
