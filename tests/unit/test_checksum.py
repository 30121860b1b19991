"""The sum in the copy is that of RFC 1071, for every length, place and cut, on each kind of CPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.house.sources import ROOT


def ways(compiler: str, directory: Path, *flags: str, run: tuple[str, ...] = ()) -> set[str]:
    """The ways that were tried and are right."""
    program = directory / "checksum"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}", *flags, "-o", str(program)]
    subprocess.run([*command, str(ROOT / "tests" / "checksum.c")], check=True, timeout=120)
    done = subprocess.run([*run, str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.split())


def test_each_way_of_this_cpu_sums_what_it_copies(tmp_path: Path) -> None:
    assert "plain" in ways("gcc", tmp_path, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def test_each_way_of_a_64_bit_arm_sums_what_it_copies(tmp_path: Path) -> None:
    assert ways("aarch64-linux-gnu-gcc", tmp_path, "-static", run=("qemu-aarch64",)) == {"plain", "neon"}
