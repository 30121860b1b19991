"""The copy, at every level of the CPU: each length and alignment is copied whole, and no other byte is written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.driver import Piece
from tests.unit.rig import frame, rig

LENGTHS = [*range(14, 330), 511, 512, 513, 1023, 1514, 1518, 2047, 4095, 9000]


def check_every_length_and_alignment() -> None:
    """Each frame into a buffer of just its size, at another alignment each time, between bytes that must stay."""
    with rig() as r:
        into, out_of = r.b.memory.take(16384, align=64), r.a.memory.take(16384, align=64)
        for i, length in enumerate(LENGTHS):
            for shift in (0, 4, 12, 17 + i % 47):
                place, source, payload = into + 64 + shift, out_of + (shift * 7 + i) % 64, frame(i, length)
                r.b.memory.write(into, b"\xaa" * 16384)
                r.a.memory.write(source, bytes(12) + payload)
                room = Piece(place, 12 + length, writable=True)
                r.b.queues[0].make_available(r.b.queues[0].chain([room]))
                r.a.queues[1].make_available(r.a.queues[1].chain([Piece(source, 12 + length)]))
                assert r.settle() == 1
                assert [u.bytes for u in r.b.queues[0].take_used()] == [12 + length]
                r.a.queues[1].take_used()
                around = r.b.memory.read(into, 16384)
                start = place - into
                assert around[start + 12 : start + 12 + length] == payload, (length, shift)
                assert around[:start].count(0xAA) == start, (length, shift)
                assert around[start + 12 + length :].count(0xAA) == 16384 - start - 12 - length, (length, shift)


@pytest.mark.parametrize("level", ["plain", "avx2", "avx512"])
def test_every_length_and_alignment_is_copied_whole_and_nothing_beside_it(level: str) -> None:
    """avx512 means: as high as this CPU goes."""
    done = subprocess.run(
        [sys.executable, "-c", "from tests.unit.test_copy_levels import check_every_length_and_alignment as f; f()"],
        env={**os.environ, "FASTVHOST_CPU_LEVEL": level},
        capture_output=True,
        timeout=120,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_level_can_be_lowered() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from fastvhost.dataplane.receiveq import copy_level; print(copy_level())"],
        env={**os.environ, "FASTVHOST_CPU_LEVEL": "plain"},
        capture_output=True,
        timeout=60,
        check=True,
        text=True,
    )
    assert done.stdout.strip() == "plain"
