"""Whether a socket can be made at a path, or connected to, without doing so."""

from __future__ import annotations

from pathlib import Path

from fastvhost.control import host
from fastvhost.control.errors import UsageError
from fastvhost.sockets import socket_file


def check(path: Path, listens: bool, elsewhere: str) -> tuple[str, ...]:
    """Returns the path where another process uses it now, perhaps the fwd that the next start replaces.

    elsewhere: a remedy that the error names in any case. Raises UsageError where it cannot be made or connected to.
    """
    directory = path.parent
    fault = host.directory_fault(directory)
    # A missing directory may be made later by the process that listens there.
    if fault and (listens or fault not in (host.MISSING, host.READ_ONLY)):
        remedy = {
            host.MISSING: f"make it with mkdir -p {directory}",
            host.READ_ONLY: "choose another directory, or run as its owner",
        }.get(fault, "choose a directory that this user may enter, or run as its owner")
        raise UsageError(f"{path}: {directory}: {fault}; {remedy}")
    look = socket_file.is_stale if listens else socket_file.is_there
    try:
        if listens:
            socket_file.check_directory(str(path), elsewhere)
        look(str(path), elsewhere)
    except socket_file.PathInUseError as error:
        return (str(error),)
    except socket_file.PathTakenError as error:
        raise UsageError(str(error)) from None
    return ()
