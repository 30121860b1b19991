"""The back-ends that scripts/compare runs: each between two vhost-user sockets, on one core, started and cleaned up.

DPDK's testpmd and OVS-DPDK come from Debian's packages dpdk and openvswitch-switch-dpdk and want hugepages and root.
The probe is a C loop without any checks, one copy per frame, split rings only: the most that the machine allows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from fastvhost.control.children import dying_with_us

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0  # peers clear their hugepages first: seconds of CPU time
STOP_SECONDS = 10.0
PEER_MIB = 256
OVS_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
OVS_SWITCH = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
INSTRUMENTS = ROOT / "bench" / "instruments"
IDLE_WORDS = ("poll", "adaptive", "interrupt")
VGEN_WORD = "vgen"
LEARN_WORD = "learn"
"""fwd is a switch: --forward learn."""
NORMAL_WORD = "normal"
"""OVS is a switch: its bridge has no flows but NORMAL."""
TSO_WORD = "tso"
"""A peer that is switched to take super-frames and unfinished checksums, which it does not by itself."""

NOT_FOR_GUESTS = (*IDLE_WORDS, VGEN_WORD, TSO_WORD, LEARN_WORD, NORMAL_WORD)


class BackEndError(Exception):
    """A back-end does not start. One line: the thing, the reason, the remedy."""


class BackEnd:
    """A process between two sockets, or more. Stops exactly the processes that it started.

    name: KIND[:PATH][@WORD[+WORD...]]; what the words mean says guest_options() and, for fastvhost, its --idle.
    """

    guests_listen = False
    needs_hugepages = False

    def __init__(self, name: str, directory: Path, core: int, hugepages: Path | None, ports: int = 2) -> None:
        self.name, self.directory, self.core, self.hugepages = name, directory, core, hugepages
        self.path = name.partition("@")[0].partition(":")[2]
        self.words = name.partition("@")[2].split("+") if "@" in name else []
        # DPDK's processes share what has the same prefix.
        self.prefix = f"fv{os.getpid()}-{directory.name}"
        directory.mkdir()
        self.sockets = [str(directory / f"{number}.sock") for number in range(ports)]
        self.a, self.b = self.sockets[:2]
        self.log_path = directory / "log"
        self._log = self.log_path.open("w")
        self._processes: list[subprocess.Popen[str]] = []
        self.env: dict[str, str] = {}

    def start(self) -> None:
        """Start, and return once guests can connect (or, with guests_listen, once it keeps trying to)."""
        raise NotImplementedError

    @property
    def guest_options(self) -> list[str]:
        """Options of the load for this back-end alone, as in fastvhost@packed+in-order."""
        return [f"--{word}" for word in self.words if word not in NOT_FOR_GUESTS]

    @property
    def pids(self) -> list[int]:
        """The processes that use CPU time while forwarding: what a turn stops and continues."""
        return [self._processes[-1].pid]

    def stop(self) -> None:
        """End what start() started, the newest first. Idempotent."""
        for process in reversed(self._processes):
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a stopped process would not notice
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        self._processes.clear()
        self._log.close()

    def run(self, *command: str, stdin: int | None = None) -> subprocess.Popen[str]:
        """A process that stays until stop()."""
        try:
            process = subprocess.Popen(
                dying_with_us(command), stdin=stdin, stdout=self._log, stderr=self._log,
                env={**os.environ, **self.env}, text=True,
                start_new_session=True,    # this program handles ^C, since a stopped process would not
            )  # fmt: skip
        except FileNotFoundError as error:
            raise BackEndError(f"{self.name}: {command[0]} is not installed; see --help for the packages") from error
        self._processes.append(process)
        return process

    def end_of_log(self) -> str:
        """The end of the log, for an error's text."""
        return "the end of its log: " + " ".join(self.log_path.read_text().splitlines()[-3:])

    def wait_for(self, *paths: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not all(Path(path).exists() for path in paths):
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                raise BackEndError(f"{self.name}: does not come up; {self.end_of_log()}")
            time.sleep(0.05)


class Fastvhost(BackEnd):
    """This tree, or the one whose directory follows a colon in the name."""

    def start(self) -> None:
        self.env = {"PYTHONPATH": str(Path(self.path or ROOT).resolve())}
        idle = [option for word in self.words if word in IDLE_WORDS for option in ("--idle", word)]
        learn = ["--forward", "learn"] if LEARN_WORD in self.words else []
        # Without storm control, which the others have not.
        keys = ",storm=off" if learn else ""
        ports = [option for path in self.sockets for option in ("--port", f"{path}{keys}")]
        self.run(
            sys.executable, "-P", "-m", "fastvhost", "fwd", *ports, *learn,
            "--cores", str(self.core), "--control", str(self.directory / "control.sock"), *idle,
        )  # fmt: skip
        self.wait_for(*self.sockets)


class Probe(BackEnd):
    """The unchecked loop in bench/instruments/probe.c, or in the C file that follows a colon in the name."""

    def start(self) -> None:
        program = compiled(Path(self.path or INSTRUMENTS / "probe.c"), self.directory / "probe")
        self.run(program, self.a, self.b, str(self.core))
        self.wait_for(self.a, self.b)


def compiled(source: Path, program: Path) -> str:
    """A C file as a program for this machine."""
    try:
        subprocess.run(["gcc", "-O3", "-march=native", "-pthread", source, "-o", program], check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BackEndError(f"{source} does not compile ({error}); it takes gcc and libc6-dev") from error
    return str(program)


class Testpmd(BackEnd):
    """DPDK's own forwarder in io mode: nothing is looked at, frames go from one port to the other."""

    needs_hugepages = True

    @property
    def port_words(self) -> str:
        """Of a vhost port. With legacy-ol-flags, what a frame asks for goes on with it though nobody looks."""
        return "queues=1" + ",tso=1,legacy-ol-flags=1" * (TSO_WORD in self.words)

    def start(self) -> None:
        process = self.run(
            "dpdk-testpmd", "--lcores", f"0@{self.core},1@{self.core}", "--main-lcore", "0", "--no-pci",
            f"--file-prefix={self.prefix}", "-m", str(PEER_MIB), "--huge-dir", str(self.hugepages),
            "--single-file-segments",
            "--vdev", f"net_vhost0,iface={self.a},{self.port_words}",
            "--vdev", f"net_vhost1,iface={self.b},{self.port_words}",
            "--", "-i", "--forward-mode=io", "--txd=1024", "--rxd=1024",
            stdin=subprocess.PIPE,
        )  # fmt: skip
        self.wait_for(self.a, self.b)
        commands: IO[str] | None = process.stdin
        assert commands is not None
        commands.write("start\n")
        commands.flush()

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(Path("/run/dpdk") / self.prefix, ignore_errors=True)


class Ovs(BackEnd):
    """OVS-DPDK with two patch flows, or as the switch that it is by itself. It connects; the guests listen."""

    guests_listen = True
    needs_hugepages = True

    def start(self) -> None:
        home = str(self.directory)
        self.env = {"OVS_RUNDIR": home, "OVS_DBDIR": home, "OVS_LOGDIR": home}
        database = f"{home}/db.sock"
        if not Path(OVS_SCHEMA).exists():
            raise BackEndError(f"{self.name}: {OVS_SCHEMA} is missing; install openvswitch-switch-dpdk")
        self._once("ovsdb-tool", "create", f"{home}/conf.db", OVS_SCHEMA)
        self.run("ovsdb-server", f"{home}/conf.db", f"--remote=punix:{database}", f"--unixctl={home}/db.ctl")
        self.wait_for(database)
        mask = hex(1 << self.core)
        self._vsctl(
            "--no-wait", "init", "--", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true",
            f"other_config:dpdk-socket-mem={PEER_MIB}", f"other_config:pmd-cpu-mask={mask}",
            f"other_config:dpdk-lcore-mask={mask}", f"other_config:dpdk-hugepage-dir={self.hugepages}",
            f'other_config:dpdk-extra="--no-pci --file-prefix={self.prefix}"',
            *["other_config:userspace-tso-enable=true"] * (TSO_WORD in self.words),
        )  # fmt: skip
        self.run(OVS_SWITCH, f"unix:{database}", f"--unixctl={home}/vs.ctl")
        self._vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        for i, path in enumerate(self.sockets):
            self._vsctl(
                "add-port", "br0", f"vu{i}", "--", "set", "Interface", f"vu{i}", "type=dpdkvhostuserclient",
                f"options:vhost-server-path={path}",
            )  # fmt: skip
        if NORMAL_WORD in self.words:
            return
        self._once("ovs-ofctl", "del-flows", f"{home}/br0.mgmt")
        for source, target in (("vu0", "vu1"), ("vu1", "vu0")):
            self._once("ovs-ofctl", "add-flow", f"{home}/br0.mgmt", f"in_port={source},actions=output:{target}")

    def _vsctl(self, *arguments: str) -> None:
        self._once("ovs-vsctl", f"--timeout={START_SECONDS:.0f}", f"--db=unix:{self.directory}/db.sock", *arguments)

    def _once(self, *command: str) -> None:
        try:
            subprocess.run(
                command, stdout=self._log, stderr=self._log, env={**os.environ, **self.env}, check=True,
                timeout=START_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise BackEndError(f"{self.name}: {command[0]} failed ({error}); {self.end_of_log()}") from error

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(Path("/run/dpdk") / self.prefix, ignore_errors=True)


KINDS: dict[str, type[BackEnd]] = {"fastvhost": Fastvhost, "testpmd": Testpmd, "ovs": Ovs, "probe": Probe}


def kind_of(name: str) -> str:
    """The first word of a back-end's name."""
    return name.partition("@")[0].partition(":")[0]
