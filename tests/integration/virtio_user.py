"""DPDK's testpmd as two guests: its virtio-user driver needs no virtual machine and no hugepages."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.guests.cores import GUEST_CORES
from bench.guests.process import Process
from bench.guests.waits import MAX_WAIT, wait_until

PROMPT = "testpmd> "
START_SECONDS = 4 * MAX_WAIT
"""In the outer guest its first start reads DPDK's libraries over 9p; beside other work that took more than 30 s."""
# The driver's own counters of a port, as testpmd prints them.
STATISTICS = re.compile(
    r"NIC statistics for port (?P<port>\d+) .*?"
    r"RX-packets: (?P<rx_frames>\d+) .*?RX-bytes: +(?P<rx_bytes>\d+).*?"
    r"TX-packets: (?P<tx_frames>\d+) .*?TX-bytes: +(?P<tx_bytes>\d+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class PortCounters:
    """As the guest sees them: received and transmitted."""

    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int


class VirtioUser(Process):
    """One virtio-net device and driver per socket; what one receives is sent out of the next one (0-1, 2-3, ...)."""

    def __init__(
        self,
        directory: Path,
        sockets: Sequence[Path],
        *,
        ring_size: int,
        mergeable: bool,
        in_order: bool,
        packed: bool = False,
        queue_pairs: int = 1,
    ) -> None:
        devices = [
            f"--vdev=net_virtio_user{number},path={path},queues={queue_pairs},queue_size={ring_size},"
            f"mrg_rxbuf={mergeable:d},in_order={in_order:d},packed_vq={packed:d}"
            for number, path in enumerate(sockets)
        ]
        core = GUEST_CORES[0]
        # --no-huge: memory from one memfd. stdbuf: answers are in the log before the prompt that follows them.
        super().__init__(
            "testpmd",
            [
                "stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{core},1@{core}", "--main-lcore", "0", "--no-pci",
                "--no-telemetry", "--no-huge", "--no-shconf", "-m", "256", *devices, "--",
                "-i", "--forward-mode=io", "--total-num-mbufs=16384", f"--txd={ring_size}", f"--rxd={ring_size}",
                f"--txq={queue_pairs}", f"--rxq={queue_pairs}",
            ],
            directory,
            stdin=True,
            env={**os.environ, "RUNTIME_DIRECTORY": str(directory)},  # or DPDK leaves one behind in /var/run
        )  # fmt: skip
        self.wait_log(re.escape(PROMPT), START_SECONDS)

    def command(self, text: str, seconds: float = 30) -> str:
        """Type a command; returns what testpmd printed until its next prompt."""
        before = len(self.log())
        self.stdin.write(f"{text}\n".encode())
        self.stdin.flush()

        def answer() -> str:
            self.check_running()
            printed = self.log()[before:]
            return printed if PROMPT in printed else ""

        return wait_until(f"testpmd finishes '{text}'", seconds, answer)

    def flood(self, frame: str) -> None:
        """Send frames from both ports, and then forward all that arrive. "700,700" is a frame of two pieces."""
        self.command("stop")
        self.command(f"set txpkts {frame}")
        self.command("start tx_first 32")

    def drain(self) -> None:
        """Stop sending, and receive the frames in flight."""
        self.command("stop")
        self.command("set fwd rxonly")
        self.command("start")

    def counters(self) -> list[PortCounters]:
        answer = self.command("show port stats all")
        found = [match.groupdict() for match in STATISTICS.finditer(answer)]
        return [PortCounters(**{key: int(value) for key, value in f.items() if key != "port"}) for f in found]

    def quit(self) -> None:
        """End properly: testpmd stops its devices."""
        self.stdin.write(b"stop\nquit\n")
        self.stdin.flush()
        self.popen.wait(MAX_WAIT)
