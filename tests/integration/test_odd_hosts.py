"""Real hosts: read-only roots, containers that share a directory, sandboxes, cleaners, nohup, cpusets.

Each test starts a real fwd in such a place, has a frame forwarded, and asks the other verbs about it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from tests.driver import Memory, SplitQueue
from tests.frontend import Frontend, Guest
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST, Forwarder, forwarder

QUICK = "from fastvhost.sockets import listening\nlistening.LOOK_SECONDS = 0.1"
"""Has fwd look at its sockets' files more often."""
REFUSED = ["sched_setaffinity", "prctl", "memfd_create", "io_setup", "sched_setscheduler", "mlock", "pidfd_open"]


def guest(path: Path) -> Guest:
    memory = Memory.of(1 << 20)
    return Guest(Frontend.connect(path), memory, *(SplitQueue(memory, 4) for _ in range(2)))


def exchange(*sockets: str | Path) -> None:
    """Connect two guests, and send a frame from the first to the second."""
    with contextlib.ExitStack() as closing:
        left, right = (guest(Path(path)) for path in sockets)
        closing.callback(left.close)
        closing.callback(right.close)
        right.net.post(1)
        right.kick()
        left.net.send(bytes(range(60)))
        left.kick()
        assert right.net.receive() == bytes(range(60))


def ask(*words: str | Path, at: Path, prefix: Sequence[str] = (), code: int = 0) -> str:
    """The output of a verb, run in such a place."""
    command = [*prefix, *FASTVHOST, *map(str, words)]
    done = subprocess.run(command, cwd=at, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def ask_all(fwd: Forwarder, prefix: Sequence[str] = ()) -> str:
    """stats and show answer. Returns what doctor prints."""
    assert "worker0: " in ask("stats", "--control", "control.sock", at=fwd.directory, prefix=prefix)
    assert "port 0 a" in ask("show", "--control", "control.sock", at=fwd.directory, prefix=prefix)
    return ask("doctor", at=fwd.directory, prefix=prefix)


def mounts(commands: str) -> list[str]:
    """The words before a command that is to run with mounts of its own."""
    return ["unshare", "--mount", "sh", "-ec", f'mount --make-rprivate /; {commands}; exec "$@"', "sh"]


NOTHING_WRITABLE = (
    "for at in /tmp /var/tmp /run /dev/shm; do mount --bind $at $at; mount -o remount,bind,ro $at; done; "
    "mount -o remount,bind,ro /"
)
READ_ONLY = mounts(f'{NOTHING_WRITABLE}; mount --bind "$PWD" "$PWD"; mount -o remount,bind,rw "$PWD"; cd "$PWD"')
"""Nothing can be written but the current directory."""


def test_with_a_read_only_root_it_needs_the_places_only_that_it_was_told() -> None:
    with forwarder(prefix=READ_ONLY) as fwd:
        exchange(*fwd.sockets)
        doctor = ask_all(fwd, READ_ONLY)
        assert "note  no directory for control sockets: " in doctor
        assert "Read-only file system" in doctor or "not writable" in doctor
        assert fwd.end()[0] == 0
        assert fwd.warnings == []
        assert "no running fwd found" in ask("stats", at=fwd.directory, prefix=READ_ONLY, code=1)
        nowhere = mounts(f"{NOTHING_WRITABLE}; cd /")
        assert "with TMPDIR=DIR" in ask("demo", at=fwd.directory, prefix=nowhere, code=1)


def test_without_a_place_for_the_control_socket_it_says_so_and_runs() -> None:
    with short_dir() as directory:
        log = directory / "log"
        command = [*READ_ONLY, *FASTVHOST, "fwd", "--port", "a.sock", "--port", "b.sock"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=directory, env=ENVIRONMENT, stdout=file, stderr=file)
        fwd = Forwarder(process, directory)
        try:
            fwd.wait_log("port b: listening")
            exchange(*fwd.sockets)
            assert fwd.end()[0] == 0
            assert "stats and show cannot ask this process: " in fwd.log
            assert len(fwd.warnings) == 1
        finally:
            process.kill()
            process.wait()


def test_two_in_pid_namespaces_of_their_own_share_a_runtime_directory() -> None:
    with short_dir() as directory, contextlib.ExitStack() as closing:
        (directory / "run").mkdir()
        environment = ENVIRONMENT | {"XDG_RUNTIME_DIR": str(directory / "run")}
        place = directory / "run" / "fastvhost"
        inside = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", "--"]
        running: list[Forwarder] = []
        for prefix in ([], inside, inside, [*inside[:2], *inside[3:]]):  # the last one sees the /proc of the first
            own = directory / f"{len(running)}"
            own.mkdir()
            command = [*prefix, *FASTVHOST, "fwd", "--port", "a.sock", "--port", "b.sock"]
            with (own / "log").open("wb") as log:
                process = subprocess.Popen(command, cwd=own, env=environment, stdout=log, stderr=log)
            closing.callback(process.wait)
            closing.callback(process.kill)
            running.append(Forwarder(process, own))
            running[-1].wait_log("port b: listening")
        assert len(list(place.iterdir())) == len(running)
        for fwd in running:
            (control,) = re.findall(r"control socket (.*)", fwd.log)
            assert str(fwd.directory / "a.sock") in ask("show", "a", "--control", control, at=directory)
            exchange(*fwd.sockets)
            assert fwd.warnings == []
        # One that was killed leaves a file: the next start takes it away, and no other.
        first = running[0]
        first.process.kill()
        first.process.wait()
        command = [*inside, *FASTVHOST, "fwd", "--port", "c.sock", "--port", "d.sock"]
        with (first.directory / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=first.directory, env=environment, stdout=log, stderr=log)
        closing.callback(process.wait)
        closing.callback(process.kill)
        Forwarder(process, first.directory).wait_log("port d: listening")
        assert len(list(place.iterdir())) == len(running)
        assert not (place / f"fwd-{first.process.pid}.sock").exists()


WARNED = {
    "sched_setaffinity": (
        "the control plane cannot be kept off the workers' cores, it runs where it may: Operation not permitted; allow",
        "worker0: cannot be pinned to core ",
    ),
    "prctl": ("naps take up to 50 us longer, prctl: Operation not permitted; allow that system call",),
    "io_setup": ("guests are notified by threads of their ports, which is slower: ",),
}
"""The calls whose refusal is logged, with the warnings; refusals of others change nothing."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_system_call_that_only_improves_things_may_be_refused(name: str) -> None:
    core = min(os.sched_getaffinity(0))
    refused = [sys.executable, "-m", "tests.refused_calls", "EPERM", name, "--"]
    with forwarder("--cores", str(core), prefix=refused) as fwd:
        exchange(*fwd.sockets)
        assert fwd.end()[0] == 0
        expected = WARNED.get(name, ())
        assert len(fwd.warnings) == len(expected), fwd.log
        for warning, words in zip(fwd.warnings, expected, strict=True):
            assert words in warning


OLD_PROFILE = ["prlimit64", "madvise", "flock", "fallocate", "faccessat2", "close_range"]
"""Calls that old seccomp profiles refuse, or profiles that were made by tracing another program."""


def test_calls_that_an_old_seccomp_profile_refuses_are_reported_or_not_needed() -> None:
    refused = [sys.executable, "-m", "tests.refused_calls", "EPERM", *OLD_PROFILE, "--"]
    with forwarder(prefix=refused) as fwd:
        exchange(*fwd.sockets)
        assert "note  how many files may be open is not known: Operation not permitted" in ask_all(fwd, refused)
        assert fwd.end()[0] == 0
        files = "how many open files are allowed is not known here, and cannot be raised; allow prlimit64"
        assert sum(files in warning for warning in fwd.warnings) == 1
        assert "Traceback" not in fwd.log


def test_fwd_runs_where_a_kernel_lacks_all_calls_that_it_can_do_without() -> None:
    missing = [sys.executable, "-m", "tests.refused_calls", "ENOSYS", *REFUSED, "sched_getaffinity", "--"]
    with forwarder(prefix=missing) as fwd:
        exchange(*fwd.sockets)
        doctor = ask_all(fwd, missing)
        assert "note  no thread can be pinned to a core: Function not implemented; fwd runs all the same" in doctor
        assert "note  memfd does not work here: Function not implemented; fwd does without" in doctor
        assert fwd.end()[0] == 0
        assert "Traceback" not in fwd.log


def test_where_proc_shows_processes_only_it_runs_and_doctor_says_what_is_missing() -> None:
    processes_only = mounts("mount -t proc -o subset=pid proc /proc")
    with forwarder(prefix=processes_only) as fwd:
        exchange(*fwd.sockets)
        doctor = ask_all(fwd, processes_only)
        assert "note  /proc/stat cannot be read: it is not known which of the cores " in doctor
        assert "ProcSubset=all in the unit" in doctor
        assert "hugepages: not seen from here" in doctor
        assert "how busy the cores are is not known here" in fwd.log
        assert fwd.end()[0] == 0
        assert fwd.warnings == []


def test_without_proc_it_says_what_is_missing_and_starts_nothing() -> None:
    without = mounts("umount -l /proc")
    with short_dir() as directory:
        said = ask("fwd", "--port", "a.sock", "--port", "b.sock", at=directory, prefix=without, code=1)
        assert said.splitlines()[-1].startswith("fastvhost: /proc is not mounted: ")
        assert list(directory.iterdir()) == []
        doctor = ask("doctor", at=directory, prefix=without, code=1)
        assert "bad   /proc is not mounted" in doctor
        assert "mount -t proc proc /proc" in doctor


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_at_its_start_stays_ignored(ignored: signal.Signals) -> None:
    ignore = ["env", f"--ignore-signal={ignored.name.removeprefix('SIG')}"]
    with forwarder(prefix=ignore) as fwd:
        for _ in range(2):  # a second ^C would end at once
            fwd.process.send_signal(ignored)
        exchange(*fwd.sockets)
        assert fwd.process.poll() is None
        code, _ = fwd.end(signal.SIGTERM if ignored == signal.SIGHUP else signal.SIGHUP)
        assert code == 0
        assert f"{ignored.name}: stopping" not in fwd.log


def test_a_socket_whose_file_is_removed_is_said_and_made_again() -> None:
    with forwarder(defect=QUICK) as fwd:
        with contextlib.closing(guest(fwd.directory / "a.sock")) as left:
            for name in ("a.sock", "b.sock", "control.sock"):
                (fwd.directory / name).unlink()
            for name in ("port a: ", "port b: ", "control socket: "):
                fwd.wait_log(f"{name}the socket's file ")
            with contextlib.closing(guest(fwd.directory / "b.sock")) as right:
                right.net.post(1)
                right.kick()
                left.net.send(bytes(60))
                left.kick()
                assert right.net.receive() == bytes(60)
        exchange(*fwd.sockets)
        assert "worker0: " in ask("stats", "--control", "control.sock", at=fwd.directory)
        assert len(fwd.warnings) == 3
        assert fwd.warnings[0].endswith("and is made again; a RuntimeDirectory= in /run is safe from those")
        assert fwd.end()[0] == 0
        assert list(fwd.directory.glob("*.sock")) == []


def test_a_path_that_another_one_took_is_left_to_it() -> None:
    with forwarder(defect=QUICK) as fwd, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(fwd.directory / "other.sock"))
        (fwd.directory / "other.sock").rename(fwd.directory / "a.sock")
        fwd.wait_log("port a: somebody removed the socket's file a.sock and made another one there")
        shown = ask("show", "a", "--control", "control.sock", at=fwd.directory)
        assert "another file has its path, nobody reaches this port" in shown
        (fwd.directory / "a.sock").unlink()  # after a foreign file was there, the path is not used again
        time.sleep(0.3)
        assert not (fwd.directory / "a.sock").exists()
        assert fwd.end()[0] == 0
        assert len(fwd.warnings) == 1


class Cpuset:
    """A control group of its own, by either interface. cpuset(7); Control Group v2, "Cpuset"."""

    def __init__(self) -> None:
        first = Path("/sys/fs/cgroup/cpuset")
        second = not first.is_dir()
        root = Path("/sys/fs/cgroup") if second else first
        if second:
            (root / "cgroup.subtree_control").write_text("+cpuset")
        self._parent, self._place = root, root / f"fv-{os.getpid()}"
        self._place.mkdir()
        if not second:
            (self._place / "cpuset.mems").write_text((root / "cpuset.mems").read_text())

    def take(self, pid: int) -> None:
        (self._place / "cgroup.procs").write_text(str(pid))

    def allow(self, *cores: int) -> None:
        (self._place / "cpuset.cpus").write_text(",".join(map(str, cores)))

    def close(self) -> None:
        for pid in (self._place / "cgroup.procs").read_text().split():
            (self._parent / "cgroup.procs").write_text(pid)
        self._place.rmdir()


def test_a_cpuset_that_shrinks_and_grows_is_logged_and_stats_names_the_core_in_use() -> None:
    quick = "from fastvhost.cli import forwarding\nforwarding.CORE_WATCH_SECONDS = forwarding.TICK_SECONDS = 0.1"
    first, *_, last = sorted(os.sched_getaffinity(0))
    with contextlib.closing(Cpuset()) as cpuset:
        cpuset.allow(first, last)
        with forwarder("--cores", str(last), defect=quick) as fwd:

            def core() -> tuple[int | None, str]:
                worker = fwd.stats()["workers"]["worker0"]
                assert worker["last_core"] == worker["core"]
                return worker["core"], ask("stats", "--control", "control.sock", at=fwd.directory).splitlines()[-1]

            cpuset.take(fwd.process.pid)
            fwd.wait_for("it runs on its own core", lambda: fwd.stats()["workers"]["worker0"]["core"] == last)
            cpuset.allow(first)
            fwd.wait_log(f"worker0 was moved from core {last} to {first}: the cpuset of this process has become")
            number, line = core()
            assert (number, f"worker0: core {first}" in line) == (first, True)
            exchange(*fwd.sockets)
            cpuset.allow(first, last)
            fwd.wait_log(f"worker0 is back on core {last}")
            number, line = core()
            assert (number, f"worker0: core {last}" in line) == (last, True)
            cpuset.allow(last)
            fwd.wait_log(f"the control plane was moved from core {first} to {last}")
            exchange(*fwd.sockets)
            assert fwd.end()[0] == 0
