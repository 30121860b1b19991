"""TCP of real kernels through fwd, beside what they do without it: in turns, all in one pair of guests.

Two guests under user-mode Linux, whose cards leave checksums and segmentation to others, and a kernel's bridge of two
taps beside fwd; one guest and this host, through a tap of fwd's and through user-mode Linux's own; and two network
namespaces, joined by two taps of fwd's, or by a bridge of veths. Root, for namespaces and taps. What sends is
scripts/guest/traffic.c, TCP of 128 KiB a call.

Where things run matters more than all else, so there are three ways (--place): "apart", senders and receivers on one
CPU and fwd on another; "together", all on one CPU; "anywhere", all on two CPUs, as the kernel sees fit.

usage: python -m bench.offloads [--rounds N] [--turn SECONDS] [--only WORD,WORD...] [--place PLACE] [--record]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.guests import traffic
from bench.guests.cores import ANYWHERE, GUEST_CORES, on_guest_cores
from bench.guests.fwd import IN_PAIRS, Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine
from bench.record import write

NO_TSO = "GUEST_TSO4+GUEST_TSO6+GUEST_ECN+GUEST_USO4+GUEST_USO6"
SENDS_NONE = "CSUM+HOST_TSO4+HOST_TSO6+HOST_ECN+HOST_USO"
VECTOR = "transport=tap,depth=128,gro=1"
CARDS: dict[str, tuple[str, str]] = {
    "whole": ("", ""),
    "cut": ("", NO_TSO),
    "cut and summed": ("", f"{NO_TSO}+GUEST_CSUM"),
    "plain": (SENDS_NONE, f"{NO_TSO}+GUEST_CSUM"),
}
"""What the ports of the first guest and of the second withhold, on each pair of cards."""
MTU = 1500
PLACES = ("apart", "together", "anywhere")


@dataclass(frozen=True)
class Flow:
    """One way from one stack to another."""

    name: str
    address: str
    sender: str
    receiver: str


@dataclass(frozen=True)
class Turn:
    """Of one flow. Seconds of CPU are those per GB of payload."""

    gbits: float
    ends_cpu: float
    fwd_cpu: float


FLOWS = [
    *(Flow(f"guests, {card}", f"10.1.{i}.2", "a", "b") for i, card in enumerate(CARDS)),
    Flow("guests, bridge", "10.2.0.2", "a", "b"),
    Flow("guests back, whole", "10.1.0.1", "b", "a"),
    Flow("guests back, bridge", "10.2.0.1", "b", "a"),
    Flow("to the host, fwd's tap", "10.3.0.254", "a", "host"),
    Flow("to the host, its own tap", "10.4.0.254", "a", "host"),
    Flow("from the host, fwd's tap", "10.3.0.1", "host", "a"),
    Flow("from the host, its own tap", "10.4.0.1", "host", "a"),
    Flow("namespaces, fwd's taps", "10.5.0.2", "left", "right"),
    Flow("namespaces, bridge", "10.6.0.2", "left", "right"),
]
COMPARED = [
    ("guests, whole", "guests, bridge"),
    ("guests back, whole", "guests back, bridge"),
    ("guests, cut", "guests, bridge"),
    ("guests, cut and summed", "guests, bridge"),
    ("guests, cut and summed", "guests, plain"),
    ("to the host, fwd's tap", "to the host, its own tap"),
    ("from the host, fwd's tap", "from the host, its own tap"),
    ("namespaces, fwd's taps", "namespaces, bridge"),
]


@dataclass(frozen=True)
class BenchMachine(UmlMachine):
    """A guest with several cards and user-mode Linux's own ones, in a namespace."""

    cards: tuple[str, ...] = ()
    space: str = ""

    def command(self, directory: Path, serial_fd: int) -> list[str]:
        words = super().command(directory, serial_fd)
        at = next(i for i, word in enumerate(words) if word.startswith("virtio_uml.device="))
        return ["ip", "netns", "exec", self.space, *words[: at + 1], *self.cards, *words[at + 1 :]]


class Space:
    """A network namespace of this bench's."""

    def __init__(self, end: str) -> None:
        self.name = f"fvo-{os.getpid()}-{end}"
        self.prefix = ["ip", "netns", "exec", self.name]
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")

    def run(self, command: str) -> str:
        done = subprocess.run(
            [*self.prefix, "sh", "-ec", command], stdout=subprocess.PIPE, text=True, check=True, timeout=90
        )
        return done.stdout

    def __enter__(self) -> Space:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False)


class Bench:
    """All that the flows need, up at once: who does nothing sleeps."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.directory = stack.enter_context(short_dir())
        traffic.build("traffic", self.directory)
        self.spaces = {end: stack.enter_context(Space(end)) for end in ("host", "left", "right")}
        host = self.spaces["host"]
        host.run("ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip link set br0 up")
        for tap in ("ta", "tb", "own"):
            host.run(f"ip tuntap add dev {tap} mode tap; ip link set {tap} up")
        host.run("ip link set ta master br0; ip link set tb master br0; ip address add 10.4.0.254/24 dev own")
        for n, end in enumerate(("left", "right"), start=1):
            host.run(
                f"ip link add v{n} type veth peer name v0 netns {self.spaces[end].name}; ip link set v{n} master br0 up"
            )
            self.spaces[end].run(f"ip link set v0 up; ip address add 10.6.0.{n}/24 dev v0")
        cards = [
            f"vhost-user:{self.directory}/{end}{i}.sock" + (f",without={withheld}" if withheld else "")
            for i, both in enumerate(CARDS.values())
            for end, withheld in zip("ab", both, strict=True)
        ]
        # Each its own, on the same CPU, as a tap without frames costs some calls; who has nothing to do sleeps.
        self.fwds = [
            stack.enter_context(Fwd(self._place(name), ports, IN_PAIRS))
            for name, ports in {
                "guests": cards,
                "host": [f"vhost-user:{self.directory}/a{len(CARDS)}.sock", f"tap:h0,netns={host.name}"],
                "spaces": [f"tap:n0,name={end},netns={self.spaces[end].name}" for end in ("left", "right")],
            }.items()
        ]
        for fwd, port in ((self.fwds[1], "h0"), (self.fwds[2], "left"), (self.fwds[2], "right")):
            fwd.wait_log(f"port {port}: made tap")
        host.run("ip address add 10.3.0.254/24 dev h0; ip link set h0 up")
        for n, end in enumerate(("left", "right"), start=1):
            self.spaces[end].run(f"ip address add 10.5.0.{n}/24 dev n0; ip link set n0 up")
        self.guests = {
            "a": self._guest(stack, "a", 1, [f"vec0:ifname=ta,{VECTOR}", f"vec1:ifname=own,{VECTOR}"], len(CARDS) + 1),
            "b": self._guest(stack, "b", 2, [f"vec0:ifname=tb,{VECTOR}"], len(CARDS)),
        }

    def _place(self, name: str) -> Path:
        place = self.directory / name
        place.mkdir()
        return place

    def _guest(self, stack: contextlib.ExitStack, end: str, n: int, own: Sequence[str], cards: int) -> UmlGuest:
        devices = tuple(f"virtio_uml.device={self.directory}/{end}{i}.sock:1" for i in range(1, cards))
        machine = BenchMachine(
            end, self.directory / f"{end}0.sock", n, cards=(*devices, *own), space=self.spaces["host"].name
        )
        guest = stack.enter_context(UmlGuest(machine, self.directory)).wait_ready(60)
        guest.run("ip address flush dev eth0")
        places = {f"eth{i}": f"10.1.{i}.{n}" for i in range(len(CARDS))}
        places |= {"vec0": f"10.2.0.{n}"} | ({f"eth{len(CARDS)}": "10.3.0.1", "vec1": "10.4.0.1"} if n == 1 else {})
        for card, address in places.items():
            guest.run(f"ip link set {card} mtu {MTU} up && ip address add {address}/24 dev {card}")
        return guest

    def turn(self, flow: Flow, seconds: float) -> Turn:
        before = self._cpu_seconds(flow)
        gbits = self._fill(flow, seconds)
        after = self._cpu_seconds(flow)
        gigabytes = gbits / 8 * seconds
        return Turn(gbits, (after[0] - before[0]) / gigabytes, (after[1] - before[1]) / gigabytes)

    def move_fwd(self, cores: Sequence[int]) -> None:
        """Each of its threads to these CPUs."""
        for fwd in self.fwds:
            for task in Path(f"/proc/{fwd.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cores)

    def dropped(self) -> dict[str, dict[str, int]]:
        """Frames that fwd dropped at each port, by reason."""
        ports = {name: port for fwd in self.fwds for name, port in fwd.stats()["ports"].items()}
        sums = {name: {k: n for k, n in port["tx_dropped"].items() if n} for name, port in ports.items()}
        return {name: some for name, some in sums.items() if some}

    def _fill(self, flow: Flow, seconds: float) -> float:
        run = {end: self._runner(end) for end in (flow.sender, flow.receiver)}
        run[flow.receiver](f"receive tcp {traffic.PORT}")
        said = run[flow.sender](f"fill {flow.address} {traffic.PORT} {seconds}")
        count, took = said.split()
        return int(count) * 8 / 1e9 / float(took)

    def _runner(self, end: str) -> Callable[[str], str]:
        if end in self.guests:
            return lambda words: self.guests[end].run(f"/run/shared/traffic {words}", 60)
        pinned = " ".join(on_guest_cores(str(self.directory / "traffic")))
        return lambda words: self.spaces[end].run(f"{pinned} {words}")

    def _cpu_seconds(self, flow: Flow) -> tuple[float, float]:
        """Of the guests at both ends, and of fwd. A bridge's share is in that of who sends."""
        ends = [self.guests[end].pid for end in (flow.sender, flow.receiver) if end in self.guests]
        return sum(map(cpu_seconds, ends)), sum(cpu_seconds(fwd.pid) for fwd in self.fwds)


def cpu_seconds(pid: int) -> float:
    """Of a process and those it started."""
    total = 0.0
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def spread(values: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": round(median, 3), "q1": round(low, 3), "q3": round(high, 3)}


def results(turns: dict[str, list[Turn]]) -> Iterator[dict[str, object]]:
    rounds = len(next(iter(turns.values())))
    for name, some in turns.items():
        yield {
            "bench": f"TCP {name}", "unit": "Gbit/s", **spread([turn.gbits for turn in some]), "rounds": rounds,
            "guests_cpu_s_per_gb": spread([turn.ends_cpu for turn in some]),
            "fwd_cpu_s_per_gb": spread([turn.fwd_cpu for turn in some]),
        }  # fmt: skip
    for one, other in COMPARED:
        if one in turns and other in turns:
            both = list(zip(turns[one], turns[other], strict=True))
            cpu = [a.ends_cpu / b.ends_cpu for a, b in both if b.ends_cpu]
            yield {
                "bench": f"TCP {one} / {other}", "unit": "ratio of turns",
                **spread([a.gbits / b.gbits for a, b in both]), "rounds": rounds,
                **({"guests_cpu": spread(cpu)} if cpu else {}),
            }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.offloads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="turns of each flow; default %(default)s")
    parser.add_argument("--turn", type=float, default=0.7, metavar="SECONDS", help="default %(default)s")
    parser.add_argument("--only", default="", metavar="LIST", help="flows whose names have one of these words")
    parser.add_argument(
        "--place", choices=("apart", "together", "anywhere"), default="apart", help="default %(default)s"
    )
    parser.add_argument("--record", action="store_true", help="a line for each figure in bench/results/offloads.jsonl")
    o = parser.parse_args()
    if os.geteuid():
        sys.exit("bench.offloads: namespaces and taps are made; run it as root")
    if o.place == "anywhere":
        os.environ[ANYWHERE] = "1"
    words = o.only.split(",")
    flows = [flow for flow in FLOWS if any(word in flow.name for word in words)]
    turns: dict[str, list[Turn]] = {flow.name: [] for flow in flows}
    with contextlib.ExitStack() as stack:
        bench = Bench(stack)
        if o.place != "apart":
            bench.move_fwd(GUEST_CORES if o.place == "together" else sorted(os.sched_getaffinity(0)))
        for _ in range(o.rounds):
            for flow in flows:
                turns[flow.name].append(bench.turn(flow, o.turn))
        dropped = bench.dropped()
    figures = [{**figure, "place": o.place} for figure in results(turns)]
    for f in figures:
        more = "".join(
            f"  {word} {f[key]['median']:.2f}"  # type: ignore[index]
            for key, word in (
                ("guests_cpu_s_per_gb", "guests s/GB"), ("fwd_cpu_s_per_gb", "fwd s/GB"), ("guests_cpu", "their CPU"),
            ) if key in f
        )  # fmt: skip
        print(f"{f['bench']:56}{f['median']:7.2f}  ({f['q1']:.2f}..{f['q3']:.2f}){more}")
    print("dropped:", dropped or "nothing")
    if o.record:
        write("offloads", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
