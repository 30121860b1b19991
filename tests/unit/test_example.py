"""What `fastvhost example` prints: by the version of QEMU, and for front-ends that cannot run here, in their syntax."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from fastvhost.backend import qemu
from fastvhost.backend.qemu import Version
from fastvhost.cli import main as entry
from fastvhost.cli.example import GUESTS, lines, remark
from fastvhost.control import diagnosis, installed
from fastvhost.control.errors import UsageError
from fastvhost.control.port_text import parse

Captured = pytest.CaptureFixture[str]
PORT = parse("/run/a.sock,queues=2,mac=52:54:00:00:00:0a")


def words(guest: str, port: str = "/run/a.sock", memory: str = "1G") -> list[str]:
    """The one command that is printed, as a shell would read it."""
    return shlex.split(lines(guest, parse(port), memory).replace("\\\n", ""))


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("2.12", "reconnect=1"),
        ("7.2.22", "reconnect=1"),
        ("9.1.3", "reconnect=1"),
        ("9.2.0", "reconnect-ms=50"),
        ("10.0.8", "reconnect-ms=50"),
        ("10.2", "reconnect-ms=50"),
        ("11.0.0", "reconnect-ms=50"),
        ("11.1.0", "reconnect-ms=50"),
    ],
)
def test_qemu_is_told_to_connect_again_as_its_version_has_it(version: str, option: str, capsys: Captured) -> None:
    assert entry.main(["example", "qemu", "/run/a.sock", "--qemu", version]) == 0
    out, err = capsys.readouterr()
    assert f"path=/run/a.sock,{option} " in out
    assert ("aborts where nobody listens yet: start fwd first" in err) == (version == "11.0.0")


def test_the_version_is_the_first_one_in_what_qemu_says() -> None:
    assert qemu.version_in("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b1)\n") == (7, 2, 22)
    assert qemu.version_in("QEMU emulator version 11.1.0 (Debian 1:11.1.0+ds-1)") == (11, 1, 0)
    assert qemu.version_in("9.2") == (9, 2, 0)
    assert qemu.version_in("none at all") is None


def test_a_text_that_is_no_version_is_refused(capsys: Captured) -> None:
    assert entry.main(["example", "qemu", "/run/a.sock", "--qemu", "new"]) == 2
    assert "write --qemu 7.2 or --qemu 11.1.0" in capsys.readouterr().err


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(programs: Path, script: str) -> None:
    program = programs / installed.QEMU
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "version", "option"),
    [
        ("echo QEMU emulator version 9.1.2", (9, 1, 2), "reconnect=1"),
        ("echo QEMU emulator version 10.2.0", (10, 2, 0), "reconnect-ms=50"),
        ("exit 1", None, "reconnect-ms=50"),
        ("echo", None, "reconnect-ms=50"),
    ],
)
def test_the_installed_qemu_is_asked(
    programs: Path, script: str, version: Version | None, option: str, capsys: Captured
) -> None:
    install(programs, script)
    assert installed.qemu_version() == version
    assert entry.main(["example", "qemu", "/run/a.sock"]) == 0
    out, err = capsys.readouterr()
    assert f",{option} " in out
    assert "--qemu VERSION" in err


def test_without_a_qemu_the_newest_is_meant(programs: Path, capsys: Captured) -> None:
    assert programs.is_dir()
    assert installed.qemu_version() is None
    assert entry.main(["example", "qemu", "/run/a.sock"]) == 0
    out, err = capsys.readouterr()
    assert ",reconnect-ms=50 " in out
    assert "for QEMU 9.2 and newer" in err


def test_doctor_tells_which_option_the_installed_qemu_takes(programs: Path) -> None:
    assert diagnosis.qemu().verdict == "note"
    install(programs, "echo QEMU emulator version 7.2.22")
    assert "QEMU 7.2.22 at" in diagnosis.qemu().text
    assert "takes reconnect=1;" in diagnosis.qemu().text
    install(programs, "echo QEMU emulator version 11.1.0")
    assert "takes reconnect-ms=50;" in diagnosis.qemu().text
    install(programs, "echo QEMU emulator version 11.0.0")
    assert diagnosis.qemu().verdict == "note"
    assert "start fwd before the guests" in diagnosis.qemu().remedy
    install(programs, "echo who knows")
    assert "does not say its version" in diagnosis.qemu().text


def test_a_port_of_its_own_mac_has_it_in_every_example_but_user_mode_linux() -> None:
    """Which asks the port."""
    for guest in ("qemu", "libvirt", "cloud-hypervisor"):
        assert "52:54:00:00:00:0a" in lines(guest, PORT)
    assert "52:54:00:00:00:0a" in remark("uml", PORT, None)
    assert "give the port mac=" in remark("uml", parse("a.sock"), None)


def test_a_front_end_with_an_mtu_of_its_own_is_told_the_ports() -> None:
    port = parse("/run/a.sock,mtu=9000")
    assert ",host_mtu=9000 " in lines("qemu", port)
    assert lines("cloud-hypervisor", port).endswith(",mtu=9000")
    assert "mtu" not in "".join(lines(guest, parse("/run/a.sock")) for guest in ("qemu", "cloud-hypervisor"))


# Cloud Hypervisor: vmm/src/config.rs, the keys of OptionParser in each parse(), and NetConfig::validate

KEYS = {
    "--cpus": {"boot", "max", "topology", "kvm_hyperv", "max_phys_bits", "affinity", "features"},
    "--memory": {"size", "shared", "hugepages", "hugepage_size", "mergeable", "prefault", "thp", "hotplug_size"},
    "--disk": {"path", "readonly", "direct", "num_queues", "queue_size", "id"},
    "--net": {"tap", "mac", "mtu", "num_queues", "queue_size", "vhost_user", "socket", "vhost_mode", "id"},
}


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize(("mode", "vmm"), [("server", "client"), ("client", "server")])
def test_cloud_hypervisor_finds_every_option_in_its_syntax(queues: int, mode: str, vmm: str) -> None:
    program, *given = words("cloud-hypervisor", f"/run/a.sock,queues={queues},mode={mode},mtu=9000", "2G")
    assert program == "cloud-hypervisor"
    options = dict(zip(given[0::2], given[1::2], strict=True))
    assert set(options) == {*KEYS, "--kernel", "--cmdline"}
    parsed = {
        option: dict(pair.split("=", 1) for pair in value.split(","))
        for option, value in options.items()
        if option in KEYS
    }
    for option, pairs in parsed.items():
        assert set(pairs) <= KEYS[option]
    net = parsed["--net"]
    assert (net["vhost_user"], net["socket"], net["vhost_mode"]) == ("true", "/run/a.sock", vmm)
    # It counts virtqueues, at least two, and no more pairs than there are processors.
    assert int(net["num_queues"]) == 2 * queues <= 2 * int(parsed["--cpus"]["boot"])
    assert parsed["--memory"] == {"size": "2G", "shared": "on"}


def test_the_example_for_cloud_hypervisor_tells_its_limit_of_60_seconds(capsys: Captured) -> None:
    assert entry.main(["example", "cloud-hypervisor", "/run/a.sock"]) == 0
    assert "60 s" in capsys.readouterr().err


# User-mode Linux: arch/um/drivers/virtio_uml.c, vu_cmdline_set. The lines themselves boot the guests of
# tests/integration/test_user_mode_linux.py


def test_user_mode_linux_has_the_socket_and_the_device_id_of_a_network_card() -> None:
    temporary, program, *given = words("uml", memory="256M")
    assert (temporary, program) == ("TMPDIR=/dev/shm", "linux.uml")
    assert given[:2] == ["mem=256M", "virtio_uml.device=/run/a.sock:1"]


@pytest.mark.parametrize(
    ("guest", "port", "reason"),
    [
        ("uml", "/run/a.sock,mode=client", "only connects and never listens"),
        ("uml", "/run/a:b.sock,name=a", "no path with ':'"),
        ("uml", "cuse:fv0", "give it a vhost-user port"),
        ("cloud-hypervisor", "cuse:fv0", "give it a vhost-user port"),
    ],
)
def test_a_port_that_such_a_guest_cannot_have_is_refused(guest: str, port: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        lines(guest, parse(port))


@pytest.mark.parametrize("guest", GUESTS)
def test_every_example_names_the_port(guest: str) -> None:
    assert "/run/a.sock" in lines(guest, parse("/run/a.sock"))
