"""A thousand front-ends connect and disconnect; nothing of them stays in fwd."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.guests.fwd import Fwd
from bench.guests.waits import MAX_WAIT, wait_until
from tests.driver import Memory, Region
from tests.frontend import Closed, Frontend, Guest, Request

ROUNDS = 1000
# After these rounds threads, allocator arenas and imported modules do not grow any more.
WARM_UP_ROUNDS = 50
REGION = 1 << 20
# Memory that the allocator may keep: far below one page for each round.
MEMORY_KEPT = 2 << 20
FRAME = bytes(range(60))


class Held(NamedTuple):
    """Open files of a process, and mappings by mapped file (without heap and thread stacks)."""

    files: int
    mapped_files: int
    mapped_guests: int


def test_nothing_is_left_of_a_thousand_connections(place: Path) -> None:
    a, b = place / "a.sock", place / "b.sock"
    with Fwd(place, [str(a), str(b)]) as fwd:
        go_round((a, b), WARM_UP_ROUNDS)
        before, resident_before = wait_alone(fwd), resident_bytes(fwd.pid)

        go_round((a, b), ROUNDS)

        assert wait_alone(fwd) == before
        assert resident_bytes(fwd.pid) < resident_before + MEMORY_KEPT
        with Guest.boot(a, receive_buffers=8) as guest_a, Guest.boot(b, receive_buffers=8) as guest_b:
            # The counts can fail: a connected guest shows in them.
            assert held(fwd.pid).mapped_guests > 0
            assert held(fwd.pid).files > before.files
            guest_a.net.send(FRAME, kick=guest_a.kicks[1])
            assert guest_b.net.receive() == FRAME
        assert wait_alone(fwd) == before


def go_round(paths: Sequence[Path], rounds: int) -> None:
    """Half of the rounds set up everything, the others disconnect before. Eight of them at one port, then at the other.

    A port that sets up rings more often than a thousand times must wait.
    """
    for number in range(rounds):
        path = paths[number // 8 % len(paths)]
        if number % 2:
            accepted(everything, path, number // 2)
        else:
            accepted(not_much, path, number // 2)


def accepted(connection: Callable[[Path, int], None], path: Path, number: int) -> None:
    """Try until fwd has noticed that the front-end before is gone, no longer than 2 s."""

    def tried() -> bool:
        try:
            connection(path, number)
        except Closed:
            return False
        return True

    wait_until("fwd accepts the next front-end", MAX_WAIT, tried)


def everything(path: Path, number: int) -> None:
    """Memory of one to four regions, both rings running with buffers in them; every other one stops its rings."""
    memory = Memory([Region(0x10000 + i * REGION, REGION, mmap_offset=i * 4096) for i in range(1 + number % 4)])
    with Guest.boot(path, memory=memory, receive_buffers=4) as guest:
        guest.net.send(FRAME, kick=guest.kicks[1])
        if number % 2:
            guest.frontend.get_vring_base(0)
            guest.frontend.get_vring_base(1)


def not_much(path: Path, number: int) -> None:
    """A front-end that leaves at once, in the middle of a header, after the features, or after its memory."""
    frontend = Frontend.connect(path)
    try:
        if number % 4 == 1:
            frontend.send_raw(b"\x01\x00\x00")
        elif number % 4 == 2:
            frontend.ask_u64(Request.GET_FEATURES)
        elif number % 4 == 3:
            memory = Memory.of(REGION)
            try:
                frontend.negotiate()
                frontend.set_mem_table(memory.regions)
            finally:
                memory.close()
    finally:
        frontend.close()


def wait_alone(fwd: Fwd) -> Held:
    """What fwd holds once no guest's memory is mapped and the number of its open files is stable."""

    def at_rest() -> Held | None:
        now = held(fwd.pid)
        return now if not now.mapped_guests and fwd.ports_down() and held(fwd.pid) == now else None

    found = wait_until("fwd has let go of the last front-end", MAX_WAIT, at_rest)
    assert found is not None
    return found


def held(pid: int) -> Held:
    mappings = [line.split(maxsplit=5)[5] for line in _maps(pid) if len(line.split(maxsplit=5)) == 6]
    guests = [path for path in mappings if path.startswith("/memfd:guest")]
    files = [path for path in mappings if path.startswith("/")]
    return Held(len(list(Path(f"/proc/{pid}/fd").iterdir())), len(files), len(guests))


def _maps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
