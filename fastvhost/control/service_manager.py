"""What the service manager that started this process is told, usually systemd: sd_notify(3), without its library."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import MutableMapping

NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
MAX_WAIT = 1.0
"""Seconds that what must not be lost waits for a manager that does not read."""
MOST_DIGITS = 20
TIMEVAL = struct.Struct("ll")


class ServiceManager:
    """Where a service manager listens, and how often it wants to hear of us. Where none listens, nothing is sent."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """address: a path, or "@name" in the abstract namespace. watchdog: seconds without alive() until a restart."""
        self.watchdog = watchdog if address else None
        self.trouble = ""
        """Why it cannot be told anything; a sentence for the log."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if not address:
            return
        if address[0] not in "@/" or address in ("@", "/"):
            self.trouble = f"{NOTIFY_SOCKET}={address}: only a path, or @NAME, is understood"
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that the environment names. Its variables are removed there: they are not for child processes."""
        address = environment.pop(NOTIFY_SOCKET, "")
        microseconds, pid = environment.pop(WATCHDOG_USEC, ""), environment.pop(WATCHDOG_PID, "")
        number = int(microseconds) if microseconds.isdecimal() and len(microseconds) < MOST_DIGITS else 0
        return cls(address, number / 1e6 if number and pid in ("", str(os.getpid())) else None)

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    def ready(self, status: str, seconds: float = MAX_WAIT) -> bool:
        """All is started, or changed as asked. status: a line for `systemctl status`."""
        return self._tell(f"READY=1\nSTATUS={status}", seconds)

    def reloading(self) -> bool:
        """A change of the configuration begins, which ready() ends. For Type=notify-reload it says since when."""
        return self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", MAX_WAIT)

    def stopping(self, status: str) -> bool:
        """The end begins."""
        return self._tell(f"STOPPING=1\nSTATUS={status}", 0.0)

    def status(self, status: str) -> bool:
        """A line for `systemctl status`."""
        return self._tell(f"STATUS={status}", 0.0)

    def alive(self) -> bool:
        """To be called more often than every `watchdog` seconds."""
        return self._tell("WATCHDOG=1", 0.0)

    def _tell(self, message: str, seconds: float) -> bool:
        """Whether it was sent, within so many seconds. `trouble` says why not, where no later one can be either."""
        if self._socket is None:
            return False
        flags = socket.MSG_NOSIGNAL | (0 if seconds else socket.MSG_DONTWAIT)
        # Not Python's time-out: poll() calls a datagram socket writable that has not been connected.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEVAL.pack(int(seconds), 0))
        try:
            self._socket.sendto(message.encode(errors="replace"), flags, self._address)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
                self.trouble = f"the service manager cannot be told that fwd runs: {error.strerror}"
            return False
        return True
