"""One of the five paths between App1 and a guest, measured: a guest, its path, and examples/app1.py on the host's side.

App1 sends numbered UDP to its own second address by way of the guest, whose kernel sends it back: every frame crosses
the path twice, and its content is verified at the end of both. So one figure counts for both directions.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.integration.fwd import ENVIRONMENT
from tests.integration.process import Process
from tests.integration.qemu import Machine
from tests.integration.snapshot import WokenGuest
from tests.short_dir import short_dir

APP1 = Path(__file__).resolve().parents[1] / "examples" / "app1.py"
BOUNCED = "10.0.0.253"
NUMBER, CUSE_NAME = 1, "fvpath"
FORWARDS = (
    "sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0; "
    "sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0"
)


@dataclass(frozen=True)
class Way:
    """One path of the deck."""

    name: str
    needs: str = ""
    """A device file that a host's kernel may lack."""
    kind: str = "virtio-net-pci"
    tap: bool = True
    vhost: bool = False


WAYS = {
    1: Way("e1000 and pcap", kind="e1000"),
    2: Way("virtio-net and pcap"),
    3: Way("virtio-net, vhost-net and pcap", needs="/dev/vhost-net", vhost=True),
    4: Way("virtio-net, CUSE and fastvhost", needs="/dev/cuse", tap=False),
    5: Way("virtio-net, vhost-user and fastvhost", tap=False),
}


@contextlib.contextmanager
def tap_of(number: int) -> Iterator[str]:
    """A tap interface, up and silent, for as long as the block lasts."""
    name = f"fvp{number}-{os.getpid() % 100000}"
    subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=True, timeout=20)
    try:
        off = Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
        if off.exists():
            off.write_text("1")
        subprocess.run(["ip", "link", "set", name, "up"], check=True, timeout=20)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False, timeout=20)


def kernel_thread(qemu: int) -> float:
    """Seconds of CPU of vhost-net's thread for a QEMU, 0 where it has none."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            if f"(vhost-{qemu})" in text:
                user, system = text.rpartition(")")[2].split()[11:13]
                return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Clocks:
    """CPU seconds so far: QEMU with all its threads, the kernel's vhost thread, App1 and the fastvhost within it."""

    def __init__(self, qemu: int, app: int) -> None:
        self._qemu, self._app = qemu, app
        self._threads: dict[int, float] = {}
        self.last: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """The figures now; those of a program that has ended stay where they were."""
        with contextlib.suppress(psutil.Error):
            used = psutil.Process(self._qemu).cpu_times()
            self.last |= {"qemu": used.user + used.system, "kernel_thread": kernel_thread(self._qemu)}
        with contextlib.suppress(psutil.Error):
            # Those that have ended keep what they took.
            self._threads |= {t.id: t.user_time + t.system_time for t in psutil.Process(self._app).threads()}
            others = sum(seconds for thread, seconds in self._threads.items() if thread != self._app)
            self.last |= {"app1": self._threads.get(self._app, 0.0), "fastvhost": others}
        return dict(self.last)


def app1(directory: Path, port: str, *options: str) -> Process:
    """The application, started."""
    words = ["--port", port, "--json", "--wait", "200", "--bounce", BOUNCED, *options]
    return Process("app1", [sys.executable, "-P", str(APP1), *words], directory, env=ENVIRONMENT)


def measure(
    number: int, seconds: float, size: int, *, round_trips: bool = True, patience: float = 200
) -> dict[str, Any]:
    """Everything about one path, as a line of bench/results/five-paths.jsonl. Nothing is left behind."""
    way = WAYS[number]
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_dir())
        if way.tap:
            tap = stack.enter_context(tap_of(number))
            machine = Machine("guest", Path("none"), NUMBER, kind=way.kind, tap=tap, vhost=way.vhost)
            port = f"pcap:{tap}"
        elif way.needs:
            machine = Machine("guest", Path("/dev", CUSE_NAME), NUMBER, device_file=True)
            port = f"cuse:{CUSE_NAME}"
        else:
            machine = Machine("guest", directory / "guest.sock", NUMBER)
            port = machine.port
        flood = _run(directory, port, machine, _flood(seconds, size), seconds, patience)
        if not round_trips:
            return _row(number, size, flood, None)
        return _row(number, size, flood, _run(directory, port, machine, _ping_pong(seconds), seconds, patience))


def _ping_pong(seconds: float) -> list[str]:
    return ["--window", "1", "--seconds", str(seconds), "--size", "64"]


def _flood(seconds: float, size: int) -> list[str]:
    return ["--window", "128", "--seconds", str(seconds), "--size", str(size)]


def _run(
    directory: Path, port: str, machine: Machine, options: list[str], seconds: float, patience: float
) -> dict[str, Any]:
    """App1 first, its port is what a guest of paths 4 and 5 comes to; then the guest; until App1 has its figures."""
    with app1(directory, port, *options) as app:
        if not machine.tap:
            _wait_for(machine.socket, app)
        with WokenGuest(machine, directory) as guest:
            guest.wake(patience)
            guest.run(FORWARDS)
            return _follow(app, guest, seconds)


def _wait_for(path: Path, app: Process) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        app.check_running()
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


def _follow(app: Process, guest: WokenGuest, seconds: float) -> dict[str, Any]:
    clocks = Clocks(guest.pid, app.pid)
    before = clocks.read()
    deadline = time.monotonic() + 260 + seconds
    while app.popen.poll() is None:
        clocks.read()
        assert time.monotonic() < deadline, f"App1 did not end: {app.log()}"
        time.sleep(0.05)
    assert app.popen.returncode == 0, app.log()
    said = dict(json.loads(app.log().splitlines()[-1]))
    said["cpu"] = {name: now - before.get(name, 0.0) for name, now in clocks.last.items()}
    return said


def _row(number: int, size: int, flood: dict[str, Any], ping_pong: dict[str, Any] | None) -> dict[str, Any]:
    runs = [run for run in (flood, ping_pong) if run is not None]
    crossings = flood["sent"] + flood["intact"]
    return {
        "path": number,
        "name": WAYS[number].name,
        "port": flood["port"],
        "bytes": size,
        "seconds": flood["seconds"],
        "sent": flood["sent"],
        "intact": flood["intact"],
        "corrupt": sum(run["corrupt"] for run in runs),
        "duplicated": sum(run["duplicated"] for run in runs),
        "frames_per_second_each_way": round(flood["intact"] / flood["seconds"], 1),
        "gbit_per_second_each_way": round(flood["intact"] * size * 8 / flood["seconds"] / 1e9, 6),
        "round_trip_us": ping_pong and ping_pong["round_trip_us"],
        "cpu_seconds_per_million_frames": {
            name: round(used / crossings * 1e6, 2) if crossings else None for name, used in sorted(flood["cpu"].items())
        },
    }
