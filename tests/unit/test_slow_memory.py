"""A ring whose pages do not come, and `show`, which reads it: no other thread waits."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOKS = """
import ctypes, fcntl, os, struct, threading
from pathlib import Path
from fastvhost.dataplane.door import Door
from tests.driver import Memory
from tests.hostile.accomplice import LIBC, SYS_USERFAULTFD, UFFD_API, UFFD_MISSING, UFFDIO_API, UFFDIO_REGISTER
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, MIB, GuestPort

side = GuestPort(Door(), "a", Memory.of(MIB, name="slow"), 64, F_VERSION_1 | {packed} * F_RING_PACKED)
side.connect()
# Its pages are gone, and whoever touches one of them through the port's mapping waits for whoever has this descriptor.
region = side.memory.regions[0]
LIBC.fallocate(region.fd, 3, ctypes.c_long(0), ctypes.c_long(MIB))
uffd = LIBC.syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
assert uffd >= 0
fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0, 0))
for line in Path("/proc/self/maps").read_text().splitlines():
    if "memfd:slow" in line:
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        fcntl.ioctl(uffd, UFFDIO_REGISTER, struct.pack("QQQQ", start, end - start, UFFD_MISSING, 0))
looker = threading.Thread(target=side.port.queue_state, args=(1,))
looker.start()
looker.join(0.1)
assert looker.is_alive()                # it waits, and we are here
side.port.set_memory(None)              # nor does its control thread wait: the memory stays until it was looked at
assert looker.is_alive()
os.close(uffd)
looker.join(30)
assert not looker.is_alive()
side.close()
assert "memfd:slow" not in Path("/proc/self/maps").read_text()
print("well")
"""


@pytest.mark.parametrize("packed", [0, 1], ids=["split", "packed"])
def test_reading_a_ring_whose_memory_does_not_come_blocks_no_other_thread(packed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOKS.format(packed=packed)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "well\n", done.stderr
