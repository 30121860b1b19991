"""Failures of fwd's own resources, one by one: no descriptor, no mapping, no thread, no AIO context, no process.

Whichever call fails: fwd goes on, so does the honest stream, nothing is left open, and the port serves again once the
resource is there.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.guests.waits import MAX_WAIT, wait_until
from tests.driver import Timeout
from tests.frontend import U64, VRING_STATE, Closed, Refused, Request
from tests.hostile.arena import Arena
from tests.hostile.attacks_message import negotiated
from tests.hostile.conftest import Shared
from tests.hostile.failing import BOARD, ENTRY, FUNCTIONS, Failing, build
from tests.hostile.scene import Scene

pytestmark = pytest.mark.alone

CALLED = ("mmap", "pthread_create", "accept4", "recvmsg")
"""Functions that a running fwd calls itself, not only its helpers."""
CALLS = 6
"""The most calls of a function that succeed before one fails."""
TRIALS = 5
"""What waits little gets less far where this host has no CPU for it."""
START_SECONDS = MAX_WAIT


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("failing"))


@pytest.fixture(scope="module")
def failing(library: Path) -> Failing:
    return Failing(library, library.with_name("board"))


@pytest.fixture(scope="module")
def shared(failing: Failing) -> Iterator[Shared]:
    shared = Shared(lambda beside: Arena(failing.start, flood=False, beside=beside))
    yield shared
    shared.close()


@pytest.fixture
def scene(shared: Shared) -> Iterator[Scene]:
    """A scene of an arena that is used again only where the test passed."""
    arena = shared.get()
    scene = Scene(arena)
    arena.spoiled = True
    yield scene
    scene.close()


def everything(scene: Scene) -> None:
    """Have fwd use resources: a guest with its memory and rings, frames, surplus descriptors, truncated memory."""
    unreachable = (Closed, Refused, Timeout, TimeoutError, OSError, AssertionError)
    scene.max_wait = 0.3
    with contextlib.suppress(*unreachable):
        guest = scene.boot()
        for _ in range(3):
            guest.send(guest.piece(guest.packet(scene.frame())))
        guest.frontend.tell(Request.SET_VRING_CALL, U64.pack(1), [guest.calls[1]])
        guest.frontend.get_vring_base(1)
    with contextlib.suppress(*unreachable):
        surplus = [os.open("/proc/self/status", os.O_RDONLY), *os.pipe(), os.memfd_create("attacker")]
        for fd in surplus:
            scene.adopt(fd)
        negotiated(scene, acks=False).send(Request.SET_VRING_NUM, VRING_STATE.pack(0, 256), surplus)
    with contextlib.suppress(*unreachable):
        guest = scene.boot()
        guest.memory.regions[0].truncate(0)
        guest.frontend.wait_closed(scene.max_wait)
    with contextlib.suppress(*unreachable):
        scene.arena.backend.statistics(scene.max_wait)


def healthy(scene: Scene) -> None:
    """Check that nothing is left of the attacker, and all ports serve."""
    arena = scene.arena
    scene.max_wait = arena.max_wait
    arena.check_alive()
    scene.disconnect()
    scene.frames_may_have_arrived()
    arena.exchange("a", arena.victim)
    arena.exchange("e", arena.friend)
    arena.wait_released()
    goes_on(arena)
    arena.check_alive()
    arena.spoiled = False


def goes_on(arena: Arena) -> None:
    before = arena.honest.progress()
    wait_until("the honest stream goes on", MAX_WAIT, lambda: arena.honest.progress().since(before).delivered)


@pytest.mark.parametrize("function", CALLED)
def test_every_call_fails_for_a_while(function: str, scene: Scene, failing: Failing) -> None:
    before = failing.failed(function)
    with failing.failing(function):
        for _ in range(TRIALS):
            everything(scene)
            if failing.failed(function) > before:
                break
        goes_on(scene.arena)
    assert failing.failed(function) > before, "it was not called: nothing was tried"
    healthy(scene)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_call_fails_after_some_that_did_not(function: str, scene: Scene, failing: Failing) -> None:
    for number in range(CALLS):
        before = failing.failed(function)
        with failing.failing(function, after=number, times=1):
            everything(scene)
        scene.arena.check_alive()
        if failing.failed(function) == before:
            break  # it is not called so often
    healthy(scene)


@pytest.mark.parametrize("times", [1, 7])
def test_memory_that_vanishes_is_replaced_although_the_kernel_has_no_room_for_that_at_once(
    times: int, scene: Scene, failing: Failing
) -> None:
    """In the SIGBUS handler, on a worker's thread: fwd and all other ports go on, this port's connection ends."""
    guest, before = scene.boot(), failing.failed("mmap_over")
    with failing.failing("mmap_over", times=times):
        guest.memory.regions[0].truncate(0)
        scene.closed(guest.frontend)
    assert failing.failed("mmap_over") == before + times
    healthy(scene)
    assert "guest memory vanished" in scene.arena.backend.log()  # a little after the connection was closed


def test_memory_that_vanishes_is_replaced_without_opening_anything(scene: Scene, failing: Failing) -> None:
    """There may be no free descriptor then."""
    guest, before = scene.boot(), failing.failed("memfd_create")
    with failing.failing("memfd_create"):
        guest.memory.regions[0].truncate(0)
        scene.closed(guest.frontend)
    assert failing.failed("memfd_create") == before
    healthy(scene)


STARTS = """
import faulthandler, mmap, os, struct, sys, threading
from fastvhost.dataplane import threads
faulthandler.dump_traceback_later(60, exit=True)
threads.START_SECONDS = 0.5
with open(os.environ["FAILING_BOARD"], "r+b") as file:
    board = mmap.mmap(file.fileno(), 4096)
at, ran = int(sys.argv[1]), []
thread = threads.Thread(target=ran.append, args=(1,))
board[at : at + 16] = struct.pack("qq", 0, 1)
try:
    thread.start()
except RuntimeError as error:
    print(error)
board[at : at + 16] = struct.pack("qq", 0, 0)
again = threads.Thread(target=ran.append, args=(2,))
again.start()
again.join()
print(ran, thread.is_alive())
"""


def test_a_thread_without_memory_for_its_first_frame_is_one_that_cannot_be_started(
    library: Path, tmp_path: Path
) -> None:
    """CPython's own start() would wait for ever."""
    own = Failing(library, tmp_path / "board")
    at = BOARD.index("first_frame") * ENTRY.size
    done = own.run([sys.executable, "-c", STARTS, str(at)], timeout=90)
    said = "can't start new thread: it found no memory, or did not get to run\n[2] False\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr


def answers(control: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, contextlib.suppress(OSError):
        client.settimeout(MAX_WAIT)
        client.connect(str(control))
        client.sendall(b'{"command": "stats"}\n')
        return bool(client.recv(1))
    return False


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("after", [0, 3])
def test_a_start_that_lacks_something_serves_or_says_so(
    function: str, after: int, library: Path, tmp_path: Path
) -> None:
    """Exit code 1 and one line, and no socket left behind; or it serves."""
    own = Failing(library, tmp_path / "board")
    own.fail(function, after=after, times=1)
    paths = [tmp_path / f"{name}.sock" for name in "ab"]
    log = tmp_path / "log"
    control = tmp_path / "control"
    process = own.start(["fwd", *(f"--port={path}" for path in paths), "--control", str(control)], log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and not answers(control):
            assert time.monotonic() < deadline, f"neither up nor ended: {log.read_text()}"
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(MAX_WAIT) == 0
        else:
            assert process.returncode == 1, log.read_text()
        assert "Traceback" not in log.read_text()
        assert not [path for path in (*paths, control) if path.exists()], log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait(MAX_WAIT)


# All descriptors are in use


def test_no_descriptor_is_left_for_anybody(scene: Scene) -> None:
    """Meanwhile no new guest is served and no thread spins; connected guests go on, and later new ones are served."""
    backend = scene.arena.backend
    limits = resource.prlimit(backend.process.pid, resource.RLIMIT_NOFILE)
    # The limit is one of numbers: what lies below the highest in use may be free.
    numbers = [int(entry.name) for entry in Path(f"/proc/{backend.process.pid}/fd").iterdir()]
    for most in (max(numbers) + 1, len(numbers), max(numbers) + 2):
        resource.prlimit(backend.process.pid, resource.RLIMIT_NOFILE, (most, limits[1]))
        try:
            everything(scene)
            scene.control_idles()
            goes_on(scene.arena)
        finally:
            resource.prlimit(backend.process.pid, resource.RLIMIT_NOFILE, limits)
    healthy(scene)


# All threads and processes of a user are in use


SOMEBODY = 3_000_000_000
"""A user whose threads and processes are fwd's alone. Root has no such limit."""
FREE = "+dac_override"
"""A capability that has nothing to do with it: the checkout may be root's alone."""
AS_SOMEBODY = ["setpriv", f"--reuid={SOMEBODY}", "--clear-groups", f"--inh-caps={FREE}", f"--ambient-caps={FREE}"]


def as_somebody(arguments: list[str], log_path: Path) -> subprocess.Popen[bytes]:
    command = [*AS_SOMEBODY, sys.executable, "-m", "fastvhost", *arguments]
    with log_path.open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def test_no_thread_and_no_process_is_left_for_anybody() -> None:
    """As with pids.max.

    Files are closed in place, nothing is lost, and once there are threads again all ports serve.
    """
    with contextlib.closing(Arena(as_somebody, flood=False)) as arena, contextlib.closing(Scene(arena)) as scene:
        arena.spoiled = True
        usual = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        allow_tasks(arena, "1")
        everything(scene)
        goes_on(arena)
        assert "BlockingIOError" in refused_process()
        allow_tasks(arena, "unlimited" if usual == resource.RLIM_INFINITY else str(usual))
        healthy(scene)


def allow_tasks(arena: Arena, n: str) -> None:
    """Limit fwd and its helpers: threads and processes of their user together."""
    for pid in (arena.backend.process.pid, *arena.backend.helpers()):
        subprocess.run([*AS_SOMEBODY, "prlimit", f"--pid={pid}", f"--nproc={n}:"], check=True, timeout=60)


def refused_process() -> str:
    """What a process of that user hears that makes another one, under the same limit."""
    tried = "import os, resource; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); os.fork()"
    words = [*AS_SOMEBODY, sys.executable, "-S", "-E", "-c", tried]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stderr
