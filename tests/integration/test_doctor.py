"""doctor's findings about ports towards the host where something is missing: each has a command that helps."""

from __future__ import annotations

import os
import subprocess
import sys

from bench.guests.fwd import ENVIRONMENT, FASTVHOST

PYTHON = os.path.realpath(sys.executable)


def doctor(*prefix: str, **environment: str) -> list[str]:
    """Its lines."""
    done = subprocess.run(
        [*prefix, *FASTVHOST, "doctor", "--directory", "/tmp"],
        env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


def remedy(lines: list[str], finding: str) -> str:
    """The line after a note."""
    return lines[lines.index(f"note  {finding}") + 1]


def test_with_everything_there_all_kinds_towards_the_host_work() -> None:
    lines = doctor()
    assert "ok    /dev/net/tun is there and taps can be made: tap: ports work" in lines
    assert [line for line in lines if line.startswith("ok    frames of this host's interfaces can be read")]
    assert "ok    this kernel has AF_XDP and lets this user load programs: xdp: ports work" in lines
    assert [line for line in lines if line.startswith("ok    libpcap version ")]


def test_without_rights_doctor_names_them_and_how_to_get_them() -> None:
    lines = doctor("setpriv", "--bounding-set", "-net_raw,-net_admin", "--inh-caps", "-all")
    missing = "no CAP_NET_RAW: packet: and pcap: ports do not work, others do"
    assert remedy(lines, missing) == f"run fwd as root, or sudo setcap cap_net_raw,cap_net_admin=ep {PYTHON}"
    missing = "no CAP_NET_RAW, CAP_NET_ADMIN or CAP_BPF: xdp: ports want all three, others work without"
    assert remedy(lines, missing).endswith(f"setcap cap_net_raw,cap_net_admin,cap_bpf=ep {PYTHON}")
    missing = "no CAP_NET_ADMIN: tap: ports work only on taps that root made for this user"
    assert remedy(lines, missing).startswith("sudo ip tuntap add dev NAME mode tap user 0")


def test_without_the_tun_device_doctor_names_the_module() -> None:
    lines = doctor("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    assert remedy(lines, "no /dev/net/tun: tap: ports do not work, others do") == "sudo modprobe tun"


def test_without_libpcap_doctor_names_the_package() -> None:
    lines = doctor(FASTVHOST_LIBPCAP="libpcap-of-nobody.so")
    missing = "libpcap is not installed: no pcap: and pcap-file: ports, others work"
    assert remedy(lines, missing) == "sudo apt-get install libpcap0.8"
