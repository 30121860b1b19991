"""Where the records of ports are kept: beside the socket, or in this user's directory in /dev/shm."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from fastvhost.backend.record import Record, RecordError, abandoned
from fastvhost.control import runtime_dir

SUFFIX = ".state"
SHARED_MEMORY = Path("/dev/shm")


def keep(path: str, rings: int, *, beside: bool) -> Record:
    """The record of the port at this socket. beside: it may lie beside the socket, since fwd listens there.

    Raises RecordError with the reasons where none can be kept.
    """
    reasons = []
    for place in _places(path, beside=beside):
        try:
            return Record(os.fspath(place), rings)
        except RecordError as error:
            reasons.append(f"{place}: {error}")
    raise RecordError("; ".join(reasons) or "no directory of its own in memory")


def _places(path: str, *, beside: bool) -> Iterator[Path]:
    whole = os.path.abspath(path)  # noqa: PTH100 - a link to the socket stays as it is
    if beside:
        yield Path(whole + SUFFIX)
    # Containers that share the directory may use the same path for different sockets.
    told_apart = f"{_directory(whole)}:".encode() + os.fsencode(whole)
    name = hashlib.sha256(told_apart).hexdigest()[:24] + SUFFIX
    private = SHARED_MEMORY / f"fastvhost-{os.geteuid()}"
    with contextlib.suppress(OSError):
        runtime_dir.own(private)
        yield private / name


def _directory(path: str) -> tuple[int, int]:
    """Device and inode of the socket's directory. Those of the socket change with each start."""
    try:
        found = os.stat(os.path.dirname(path))  # noqa: PTH116, PTH120
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def remove_abandoned() -> None:
    """Remove records about front-ends that have ended. A record beside a socket is removed with the port."""
    with contextlib.suppress(OSError):
        for path in (SHARED_MEMORY / f"fastvhost-{os.geteuid()}").glob(f"*{SUFFIX}"):
            if abandoned(path):
                path.unlink(missing_ok=True)
