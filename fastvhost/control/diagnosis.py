"""The checks of `fastvhost doctor`: one function per question, one finding each."""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from fastvhost.backend import qemu as qemu_options
from fastvhost.control import affinity, host, host_findings, installed, runtime_dir
from fastvhost.control.finding import Finding
from fastvhost.control.kinds import KINDS
from fastvhost.control.open_files import ALLOW
from fastvhost.control.units import format_cores
from fastvhost.sockets import socket_file

MIN_OPEN_FILES = 4096


def examine(directory: str) -> list[Finding]:
    """Every finding about this host, and about a directory for sockets."""
    questions: tuple[Callable[[], Finding], ...] = (
        python,
        data_plane,
        shared_memory,
        cores,
        pinning,
        proc,
        lambda: sockets(Path(directory)),
        control,
        open_files,
        hugepages,
        qemu,
        receive_offloads,
        kvm,
        *dict.fromkeys(question for kind in KINDS.values() for question in kind.findings),
        host_findings.namespaces,
    )
    return [question() for question in questions]


def python() -> Finding:
    """The interpreter."""
    return Finding("ok", f"Python {sys.version.split()[0]} at {sys.executable}")


def data_plane() -> Finding:
    """Whether the extension modules load into this interpreter."""
    from fastvhost import build_info

    try:
        info = build_info()
    except ImportError as error:
        return Finding(
            "bad",
            f"the compiled data plane does not load: {error}",
            "pip install --force-reinstall .    # in the checkout",
        )
    return Finding("ok", f"data plane built by {info['compiler']}, copies use {info['cpu_level']}")


def shared_memory() -> Finding:
    """Whether memfd works, which is how guests share their memory."""
    try:
        fd = os.memfd_create("fastvhost-doctor")
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            mmap.mmap(fd, mmap.PAGESIZE).close()
        finally:
            os.close(fd)
    except OSError as error:
        return Finding(
            "note",
            f"memfd does not work here: {error.strerror}; fwd does without, guests that are started here cannot use it",
            "run outside of the sandbox that forbids memfd_create, or give guests memory-backend-file on tmpfs",
        )
    return Finding("ok", "memfd works: guests can share their memory, hugepages are not needed")


def cores() -> Finding:
    """The core that a worker would get."""
    state = host.observe()
    plan = host.plan_cores((), state)
    if not state.busy:
        worker = plan.worker_cores[0]
        where = "is not pinned" if worker is None else f"would poll on core {worker}"
        return Finding(
            "note",
            f"/proc/stat cannot be read: it is not known which of the cores {format_cores(plan.allowed)} are busy; "
            f"a worker {where}",
            "ProcSubset=all in the unit    # or choose a quiet core with fwd --cores N",
        )
    if plan.warnings:
        return Finding("note", plan.warnings[0], "taskset -pc 0-1 $$    # or choose a quiet core with fwd --cores N")
    allowed = format_cores(plan.allowed)
    return Finding(
        "ok", f"cores {allowed} are allowed; a worker would poll on core {plan.worker_cores[0]}, which is quiet"
    )


def sockets(directory: Path) -> Finding:
    """Whether sockets can be made in this directory."""
    if fault := host.directory_fault(directory):
        remedy = {
            host.MISSING: f"mkdir -p {directory}",
            host.READ_ONLY: f"sudo install -d -o {os.getuid()} -m 0755 {directory}",
        }.get(fault, "choose a directory that this user may enter")
        return Finding("bad", f"{directory}: {fault}", remedy)
    try:
        place = socket_file.exposed(str(directory))
    except OSError as error:
        return Finding("bad", f"{directory}: {error.strerror}", "choose a directory that is there")
    if place:
        return Finding("bad", f"{directory}: other users may replace files in {place}", f"chmod +t {place}")
    return Finding("ok", f"{directory.resolve()}: sockets can be made here")


def control() -> Finding:
    """The directory of the control socket."""
    try:
        return Finding("ok", f"control sockets go to {runtime_dir.choose()}")
    except OSError as error:
        return Finding(
            "note", f"no directory for control sockets: {error}", "give fwd, stats and show the same --control PATH"
        )


def open_files() -> Finding:
    """Enough descriptors: each ring takes three, each memory region one. fwd raises its soft limit to the hard one."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError as error:
        return Finding("note", f"how many files may be open is not known: {error.strerror}", ALLOW)
    if hard < MIN_OPEN_FILES:
        return Finding(
            "note",
            f"{hard} open files allowed: few for many ports with many memory regions",
            f"ulimit -Hn {MIN_OPEN_FILES}    # as root; in a unit: LimitNOFILE={MIN_OPEN_FILES}",
        )
    return Finding("ok", f"{hard} open files allowed")


def hugepages() -> Finding:
    """Not needed; guests that use them miss fewer translations."""
    try:
        free = int(Path("/proc/sys/vm/nr_hugepages").read_text())
    except (OSError, ValueError):
        return Finding("ok", "hugepages: not seen from here, and none needed")
    return Finding("ok", f"{free} hugepages reserved" + ("" if free else " (none needed; DPDK guests like them)"))


def qemu() -> Finding:
    """The usual front-end."""
    path = shutil.which(installed.QEMU)
    if not path:
        return Finding("note", "QEMU is not installed here", "sudo apt-get install qemu-system-x86")
    version = installed.qemu_version()
    if version is None:
        return Finding("note", f"QEMU at {path} does not say its version", f"{path} --version")
    which = f"{qemu_options.named(version)} at {path}"
    if version == qemu_options.ABORTS:
        return Finding(
            "note",
            f"{which} aborts with reconnect-ms= where nobody listens at its first attempt",
            "start fwd before the guests, or take another QEMU",
        )
    return Finding("ok", f"{which} takes {qemu_options.reconnect(version)}; its lines: fastvhost example qemu a.sock")


def receive_offloads() -> Finding:
    """What a guest cannot take back: nothing here tells, so it is said of every host."""
    return Finding(
        "ok",
        "guests get super-frames, and checksums left out, as agreed at their start, also after they load XDP or switch "
        "that off (QEMU tells nobody); for XDP: without=GUEST_CSUM at the port, or QEMU's "
        "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off",
    )


def kvm() -> Finding:
    """Guests work without KVM, but slowly."""
    if not Path("/dev/kvm").exists():
        return Finding(
            "note", "no /dev/kvm: guests are emulated and slow", "sudo modprobe kvm-intel || sudo modprobe kvm-amd"
        )
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Finding("note", "/dev/kvm is not open to this user", "sudo usermod -aG kvm $USER    # then log in again")
    return Finding("ok", "/dev/kvm is there")


def proc() -> Finding:
    """Whether /proc is there, which every guest's files need."""
    if fault := host.proc_fault():
        what, _, remedy = fault.partition("; ")
        return Finding("bad", what, remedy)
    return Finding("ok", "/proc is mounted")


def pinning() -> Finding:
    """Whether threads can be kept on cores of their own."""
    if reason := affinity.pin(0, affinity.allowed()):
        why, _, remedy = reason.partition("; ")
        return Finding("note", f"no thread can be pinned to a core: {why}; fwd runs all the same", remedy)
    return Finding("ok", "threads can be pinned to cores")
