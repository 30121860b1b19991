"""More frames than a port towards the host reads in time: the kernel drops some, and the port has counted each."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guests.fwd import Fwd
from bench.guests.waits import MAX_WAIT, wait_until
from tests.integration.namespace import Namespace

FRAMES = 60_000
FLOOD = f"""
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
for number in range({FRAMES}):
    out.send(bytes(12) + b"\\x88\\xb5" + number.to_bytes(46, "big"))
"""


@pytest.mark.parametrize(("port", "sender"), [("tap:t0", "t0"), ("packet:v0", "v1"), ("pcap:v0", "v1")])
def test_frames_that_the_kernel_drops_while_fwd_does_not_run_are_counted(
    place: Path, port: str, sender: str
) -> None:
    with Namespace() as space:
        space.run("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up")
        with Fwd(place, [port, "null:"], prefix=space.prefix) as fwd:
            name = port.partition(":")[2]
            fwd.wait_log("control socket")  # the socket's file exists a little before fwd answers
            wait_until(f"{name} is up", MAX_WAIT, lambda: fwd.stats()["ports"][name]["link"] == "up")
            fwd.popen.send_signal(signal.SIGSTOP)
            try:
                subprocess.run([*space.prefix, sys.executable, "-c", FLOOD, sender], check=True, timeout=60)
            finally:
                fwd.popen.send_signal(signal.SIGCONT)

            def counted() -> tuple[int, int]:
                counters = fwd.stats()["ports"][name]
                return counters["rx_frames"], counters["rx_dropped"]["kernel_overrun"]

            wait_until("every frame is accounted for", MAX_WAIT, lambda: sum(counted()) == FRAMES)
            received, dropped = counted()
            assert received > 0
            assert dropped > 0
