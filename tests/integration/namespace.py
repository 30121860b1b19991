"""A network namespace for a test: its interfaces are removed with it."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.guests.waits import MAX_WAIT, wait_until

CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count()


class CommandFailed(AssertionError):
    """A command in a namespace ended with another status than 0."""


class Namespace:
    """Made by the constructor, deleted at the end of the block."""

    def __init__(self, name: str = "") -> None:
        self.name = name or f"fv-{os.getpid()}-{next(_NUMBERS)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True, timeout=2 * MAX_WAIT)
        # IPv6 messages of the host would change counters.
        self.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
        self.run("ip link set lo up")

    @property
    def prefix(self) -> list[str]:
        """The words before a command that is to run in it."""
        return ["ip", "netns", "exec", self.name]

    def run(self, command: str, seconds: float = 2 * MAX_WAIT, *, check: bool = True) -> str:
        """Run a shell command in the namespace. Its output, also that to stderr."""
        done = subprocess.run(
            [*self.prefix, "sh", "-ec", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
        )  # fmt: skip
        if check and done.returncode:
            raise CommandFailed(f"'{command}' ended with {done.returncode}: {done.stdout.strip()}")
        return done.stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Enter it in this block, with the calling thread and threads that it makes.

        Sockets opened there stay in it.
        """
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(own)
        finally:
            os.close(there)
            os.close(own)

    def has(self, interface: str) -> bool:
        """Whether there is an interface of that name."""
        return interface in self.run("ip -o link").replace("@", ":").replace(" ", ":").split(":")

    @contextmanager
    def listening(self, port: int, seconds: float) -> Iterator[None]:
        """Run a program in it that answers one TCP stream with its checksum."""
        command = f"timeout {seconds} busybox nc -l -p {port} -e sha256sum || true"
        listener = threading.Thread(target=self.run, args=(command, seconds + MAX_WAIT))
        listener.start()
        try:
            wait_until("a listener", MAX_WAIT, lambda: f":{port} " in self.run("busybox netstat -ltn"))
            yield
        finally:
            listener.join(seconds + MAX_WAIT)

    def close(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, timeout=2 * MAX_WAIT)
        Path("/run/netns", self.name).unlink(missing_ok=True)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _enter(namespace: int) -> None:
    """setns(2), for the calling thread."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
