"""Pings and copies between guests with a network interface, by busybox's commands over their agent."""

from __future__ import annotations

import re
import time
from abc import abstractmethod

from bench.guests.agent import ObedientGuest
from bench.guests.waits import wait_until


class NetworkedGuest(ObedientGuest):
    """A running guest with an interface eth0."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Its IP address."""

    def boot_id(self) -> str:
        """Differs between any two starts of a guest."""
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def ping(self, other: NetworkedGuest, count: int, *, bytes: int = 56, max_wait: int = 10) -> int:
        """How many of so many pings the other guest answered. Each is sent when the one before was answered.

        max_wait: seconds for the last one, and a fifteenth of what all may take.
        """
        command = f"ping -A -q -c {count} -s {bytes} -W {max_wait} {other.address}; true"
        answers = re.search(r"(\d+) packets received", self.run(command, 15 * max_wait))
        assert answers is not None
        return int(answers[1])

    def copy_to(self, other: NetworkedGuest, mib: int, *, max_wait: float = 60) -> tuple[str, str]:
        """Copy random data by TCP. Returns its checksums at the sender and at the receiver."""
        self.run(f"dd if=/dev/urandom of=/tmp/sent bs=1M count={mib} 2>&1", max_wait)
        other.take_a_copy()
        # The receiver's answer to the end of the data is their checksum.
        received = self.run(f"nc {other.address} 5000 < /tmp/sent", max_wait)
        return self.run("sha256sum < /tmp/sent; rm /tmp/sent", max_wait), received

    def take_a_copy(self, seconds: float = 60) -> None:
        """Listen: answer a connection with the checksum of its data, once the sender has ended it."""
        listens = "grep -qs ':1388 .* 0A ' /proc/net/tcp /proc/net/tcp6"  # port 5000, TCP_LISTEN
        self.run(f"nc -l -p 5000 -e sha256sum > /dev/null 2>&1 & until {listens}; do sleep 0.1; done", seconds)

    def wait_answer(self, other: NetworkedGuest, seconds: float) -> float:
        """Ping until the other guest answers once. Returns after how many seconds it did."""
        start = time.monotonic()
        wait_until(f"{other.name} answers {self.name}'s ping", seconds, lambda: self._answers(other))
        return time.monotonic() - start

    def _answers(self, other: NetworkedGuest) -> bool:
        return " 1 packets received" in self.run(f"ping -q -c 1 -W 1 {other.address}; true", 5)
