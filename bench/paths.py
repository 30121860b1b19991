"""One of the five paths between App1 and a guest, measured: a guest, its path, and examples/app1.py on the host's side.

Four streams of numbered UDP, each verified byte for byte where it ends. One way: "in" comes from a program in the
guest, "out" goes to it; that program drives the network device itself and costs next to nothing, so that what is
measured is the path. There and back: "bounce" is forwarded by the guest's kernel, as many frames as the path bears,
and the round trip is that of one frame at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.guests.fwd import ENVIRONMENT
from bench.guests.process import Process
from bench.guests.qemu import Machine
from bench.guests.short_dir import short_dir
from bench.guests.snapshot import WokenGuest
from bench.guests.waits import wait_until

APP1 = Path(__file__).resolve().parents[1] / "examples" / "app1.py"
BOUNCED = "10.0.0.253"
NUMBER, CUSE_NAME = 1, "fvpath"
FORWARDS = (
    "sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0; "
    "sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0"
)


@dataclass(frozen=True)
class Way:
    """One of the five paths."""

    name: str
    needs: str = ""
    """The device file that it needs, which this kernel may lack."""
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


def bring_up(tap: str) -> None:
    """Wait until QEMU has made a tap, and set it up. The kernel removes it when QEMU ends, even by SIGKILL."""
    wait_until(f"{tap} is there", 30, Path("/sys/class/net", tap).exists)
    off = Path("/proc/sys/net/ipv6/conf", tap, "disable_ipv6")
    if off.exists():  # IPv6 messages of the host would change the figures
        off.write_text("1")
    subprocess.run(["ip", "link", "set", tap, "up"], check=True, timeout=20)


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
    """CPU seconds so far: the guest's processor, the rest of QEMU, the kernel's vhost thread, App1, its fastvhost."""

    def __init__(self, guest: WokenGuest, app: Process) -> None:
        self._qemu, self._app = guest.pid, app.pid
        self._processors = {int(one["thread-id"]) for one in guest.ask_monitor("query-cpus-fast")}

    def read(self) -> dict[str, float]:
        """The figures now."""
        guest = _seconds(self._qemu, self._processors)
        app1 = _seconds(self._app, {self._app})
        return {
            "qemu_guest": guest,
            "qemu_rest": _seconds(self._qemu) - guest,
            "kernel_thread": kernel_thread(self._qemu),
            "app1": app1,
            "fastvhost": _seconds(self._app) - app1,
        }


def _seconds(process: int, only: set[int] | None = None) -> float:
    threads = psutil.Process(process).threads()
    return float(sum(t.user_time + t.system_time for t in threads if only is None or t.id in only))


class App1(Process):
    """The application as a process, and its streams."""

    def __init__(self, directory: Path, port: str) -> None:
        words = ["--port", port, "--json", "--wait", "200", "--count", "100", "--window", "8", "--more"]
        super().__init__("app1", [sys.executable, "-P", str(APP1), *words], directory, env=ENVIRONMENT, stdin=True)
        self._streams = 0

    def stream(self, seconds: float, *options: str) -> dict[str, Any]:
        """Its report on one more stream, once that has ended."""
        self.stdin.write(" ".join([*options, "--count 0", "--seconds", str(seconds)]).encode() + b"\n")
        self.stdin.flush()
        return self.said(260 + seconds)

    def said(self, seconds: float) -> dict[str, Any]:
        """Its next answer, without log lines about the port's interface."""
        deadline = time.monotonic() + seconds
        while len(answers := self._answers()) <= self._streams:
            self.check_running()
            assert time.monotonic() < deadline, f"App1 does not end its stream: {self.log()}"
            time.sleep(0.05)
        self._streams += 1
        return dict(json.loads(answers[self._streams - 1]))

    def _answers(self) -> list[str]:
        return [line for line in self.log().splitlines(keepends=True) if line[0] == "{" and line[-1] == "\n"]


def measure(number: int, seconds: float, size: int, rounds: int = 1, *, max_wait: float = 200) -> list[dict[str, Any]]:
    """Measure one path; each round is a line of bench/results/five-paths.jsonl. Removes all that it made."""
    way = WAYS[number]
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_dir())
        if way.tap:
            tap = f"fvp{number}-{os.getpid() % 100000}"
            machine = Machine("guest", Path("none"), NUMBER, kind=way.kind, tap=tap, vhost=way.vhost)
            port = f"pcap:{tap}"
        elif way.needs:
            machine = Machine("guest", Path("/dev", CUSE_NAME), NUMBER, device_file=True)
            port = f"cuse:{CUSE_NAME}"
        else:
            machine = Machine("guest", directory / "guest.sock", NUMBER)
            port = machine.port
        # QEMU makes the tap that App1 uses; on paths 4 and 5, App1 makes the port that QEMU uses.
        if way.tap:
            guest = stack.enter_context(WokenGuest(machine, directory))
            bring_up(machine.tap)
            app = stack.enter_context(App1(directory, port))
        else:
            app = stack.enter_context(App1(directory, port))
            wait_until(f"{machine.socket} is there", 60, lambda: _is_there(machine.socket, app))
            guest = stack.enter_context(WokenGuest(machine, directory))
        _let_roam(guest.pid)
        guest.wake(max_wait)
        guest.run(FORWARDS, max_wait)
        app.said(max_wait)
        clocks = Clocks(guest, app)
        runs: list[dict[str, dict[str, Any]]] = [{} for _ in range(rounds)]
        for run in runs:
            run["bounce"] = _stream(app, clocks, seconds, size, "--window", "128")
            run["ping_pong"] = _stream(app, clocks, seconds, size, "--window", "1")
        # From here on a program in the guest uses the network device.
        guest.run("flood eth0 > /tmp/flood 2>&1 &", max_wait)
        said = guest.run("while ! grep -s . /tmp/flood; do sleep 0.5; done", max_wait)
        assert said.startswith("flooding"), said
        for run in runs:
            run["out"] = _stream(app, clocks, seconds, size, "--stream", "out", "--window", "256")
            run["in"] = _stream(app, clocks, seconds, size, "--stream", "in")
        return [_row(number, size, port, run) for run in runs]


def _let_roam(process: int) -> None:
    """Unlike in tests, a guest may use all processors: two threads of its QEMU may be busy at once."""
    for thread in psutil.Process(process).threads():
        os.sched_setaffinity(thread.id, range(os.cpu_count() or 1))


def _is_there(path: Path, app: App1) -> bool:
    app.check_running()
    return path.exists()


def _stream(app: App1, clocks: Clocks, seconds: float, size: int, *options: str) -> dict[str, Any]:
    before = clocks.read()
    said = app.stream(seconds, "--size", str(size), *options)
    used = {name: now - before[name] for name, now in clocks.read().items()}
    assert said["intact"], f"no frame of a stream arrived: {said}"
    # A frame that bounces crosses twice.
    crossings = said["intact"] * (1 if "--stream" in options else 2)
    said["cpu"] = {name: round(cpu / crossings * 1e6, 3) for name, cpu in used.items()}
    return said


def _row(number: int, size: int, port: str, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kept = ("seconds", "sent", "intact", "lost", "corrupt", "duplicated")
    directions = {
        name: {key: runs[name][key] for key in kept}
        | {
            "frames_per_second": runs[name]["frames_per_second"],
            "gbit_per_second": round(runs[name]["frames_per_second"] * size * 8 / 1e9, 6),
            "cpu_seconds_per_million_frames": runs[name]["cpu"],
        }
        for name in ("in", "out", "bounce")
    }
    return {
        "path": number,
        "name": WAYS[number].name,
        "port": port,
        "bytes": size,
        **directions,
        "round_trip_us": runs["ping_pong"]["round_trip_us"],
        "corrupt": sum(run["corrupt"] for run in runs.values()),
        "duplicated": sum(run["duplicated"] for run in runs.values()),
    }
