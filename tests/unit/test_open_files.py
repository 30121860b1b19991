"""How many files fwd may have open: raised at its start, checked against its ports, and what happens without."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fastvhost.control import config, open_files
from fastvhost.control.errors import RuntimeFailure
from tests.driver import Memory, SplitQueue
from tests.frontend import Frontend, Guest
from tests.unit.forwarder import ENVIRONMENT, FASTVHOST, forwarder

GUESTS = 130


def settings(*ports: str) -> config.FwdConfig:
    return config.build({"port": list(ports)})


def test_all_rings_of_all_ports_are_counted() -> None:
    small, large = settings("a.sock", "b.sock"), settings("a.sock,queues=32", "b.sock")
    assert open_files.wanted(small) == 64 + 253 + 2 * (16 + 6)
    assert open_files.wanted(large) == 64 + 253 + 16 + 64 * 3 + 16 + 6
    assert open_files.check(small, open_files.wanted(small)) == ()
    (warning,) = open_files.check(large, open_files.wanted(large) - 1)
    assert warning.startswith(f"{open_files.wanted(large) - 1} open files are allowed, these 2 ports need ")
    assert "LimitNOFILE=" in warning
    with pytest.raises(RuntimeFailure, match="LimitNOFILE="):
        open_files.check(small, open_files.least(small) - 1)


@pytest.mark.parametrize("limit", [12, 40])
def test_a_limit_under_which_no_guest_could_be_served_is_told_with_the_remedy(directory: Path, limit: int) -> None:
    command = [*FASTVHOST, "fwd", "--port", "a.sock", "--port", "b.sock", "--control", "c.sock"]
    lower = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{lower}; os.execv(sys.argv[1], sys.argv[1:])", *command],
        cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert "raise the hard limit: LimitNOFILE= in the unit, or ulimit -Hn as root" in done.stderr
    assert list(directory.iterdir()) == []


def test_the_usual_limits_of_a_service_are_enough_for_130_guests() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    ports = tuple(f"p{number}.sock" for number in range(GUESTS))
    defect = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (1024, {before[1]}))"
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    memory = Memory.of(1 << 20)
    guests: list[Guest] = []
    try:
        with forwarder("--forward", "patch", ports=ports, defect=defect, seconds=30) as fwd:
            for port in ports:
                queues = [SplitQueue(memory, 2) for _ in range(2)]
                guests.append(Guest(Frontend.connect(fwd.directory / port), memory, *queues))
            assert len(list(Path(f"/proc/{fwd.process.pid}/fd").iterdir())) > 1024
            # Frames pass through the first and the last pair of ports.
            for left, right in ((guests[0], guests[1]), (guests[-2], guests[-1])):
                right.net.post(1)
                right.kick()
                left.net.send(bytes(60))
                left.kick()
                assert right.net.receive() == bytes(60)
            assert fwd.warnings == []
            assert fwd.end()[0] == 0
    finally:
        for guest in guests:
            guest.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
