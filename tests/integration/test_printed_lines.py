"""Guests under the newest QEMU, started from exactly the lines that `fastvhost example qemu` prints for it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.agent import serial_options
from bench.guests.fwd import ENVIRONMENT, FASTVHOST, Fwd
from bench.guests.kernel import WORDS
from bench.guests.networked import NetworkedGuest
from bench.guests.qemu import QEMU, boot_words, newest_qemu
from bench.guests.waits import MAX_WAIT

pytestmark = pytest.mark.long

AS_HERE = """\
#!/bin/sh
for word; do
    shift
    case $word in kvm) word=tcg ;; host) word=max ;; esac
    set -- "$@" "$word"
done
exec {newest} "$@" {also}
"""
"""A script in QEMU's place, since there is no KVM here and the guest's disk has no system."""


class PrintedGuest(NetworkedGuest):
    """The guest of a port, started by the lines that a user pastes into a shell."""

    def __init__(self, fwd: Fwd, name: str, number: int) -> None:
        self._number = number
        place = fwd.directory / f"of-{name}"
        place.mkdir()
        (place / "guest.qcow2").write_bytes(bytes(1 << 20))
        program = place / QEMU
        kernel_words = f"{WORDS} swiotlb=noforce guest_address={self.address}/24"
        also = ["-nodefaults", "-display", "none", *serial_options(fwd.directory, name), *boot_words(kernel_words)]
        program.write_text(AS_HERE.format(newest=shlex.join(newest_qemu().words), also=shlex.join(also)))
        program.chmod(0o755)
        path = {"PATH": f"{place}:{ENVIRONMENT['PATH']}"}
        asked = [*FASTVHOST, "example", "qemu", name, "--memory", "192M", "--control", fwd.control]
        said = subprocess.run(asked, env=ENVIRONMENT | path, capture_output=True, text=True, check=True, timeout=60)
        self.lines = said.stdout
        start = f"cd {place}; PATH={path['PATH']}; exec {self.lines}"
        super().__init__(name, ["sh", "-c", start], fwd.directory)

    @property
    def address(self) -> str:
        return f"10.0.0.{self._number}"


@pytest.fixture(scope="module")
def ports(place: Path) -> list[str]:
    return [f"{place}/{name}.sock" for name in "ab"]


@pytest.fixture(scope="module")
def guests(place: Path, ports: list[str]) -> Iterator[tuple[Fwd, PrintedGuest, PrintedGuest]]:
    with (
        Fwd(place, ports) as fwd,
        PrintedGuest(fwd, "a", 1) as a,
        PrintedGuest(fwd, "b", 2) as b,
    ):
        a.wait_ready(4 * MAX_WAIT)
        b.wait_ready(4 * MAX_WAIT)
        yield fwd, a, b


def test_guests_that_were_started_so_have_their_network_back_when_fwd_is_started_again(
    place: Path, ports: list[str], guests: tuple[Fwd, PrintedGuest, PrintedGuest]
) -> None:
    """Within 5 s; an overloaded machine may sometimes take longer."""
    fwd, a, b = guests
    assert ",reconnect-ms=50 " in a.lines
    assert a.ping(b, 100) == 100
    took = []
    try:
        for n in range(4):
            fwd.stop() if n % 2 else fwd.kill()
            fwd = Fwd(place, ports)
            took.append(a.wait_answer(b, MAX_WAIT))
            assert b.ping(a, 20) == 20
            assert fwd.warnings() == []
    finally:
        fwd.stop()
    print(f"a ping was answered {', '.join(f'{seconds:.2f}' for seconds in took)} s after fwd listened again")
    assert min(took) < 5
