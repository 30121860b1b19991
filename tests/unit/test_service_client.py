"""A port as the client: it connects when its peer is there, again and again."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from bench.guests.waits import MAX_WAIT
from fastvhost.backend import advice
from fastvhost.vhostuser import listener
from fastvhost.vhostuser.message import Request
from tests.frontend import Frontend
from tests.unit.service_rig import Rig, run_a_ring, until


def test_a_client_connects_when_its_peer_comes_later(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path, mode="client")
    assert rig.state == "connecting"
    time.sleep(0.35)  # it has tried by now, more than once where it had a CPU
    frontend = Frontend.listen(path)
    assert frontend.ask_u64(Request.GET_QUEUE_NUM) == 1
    frontend.close()
    rig.close()
    assert path.exists()  # the peer's file is the peer's


def test_a_client_connects_again_when_its_peer_restarts(directory: Path) -> None:
    path = directory / "a.sock"
    rig = Rig(path, mode="client")
    for _ in range(3):
        frontend = Frontend.listen(path)
        run_a_ring(frontend)
        frontend.close()
        path.unlink()
        until(lambda: rig.state == "connecting")
        assert rig.port.live == {}
    rig.close()


def test_a_client_whose_peer_hangs_up_at_once_tries_less_and_less_often(directory: Path) -> None:
    path = directory / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        listener.settimeout(MAX_WAIT)
        start = time.monotonic()
        rig = Rig(path, mode="client")
        for _ in range(5):  # at 0, 0.1, 0.3, 0.7 and 1.5 s, or a fifth earlier
            listener.accept()[0].close()
        assert time.monotonic() - start >= 1.2
        rig.close()


def test_a_socket_without_write_permission_is_reported_as_that_and_not_as_a_missing_guest() -> None:
    nobody = advice.by_connecting("/run/a.sock").nobody
    assert "a guest needs QEMU -chardev socket,id=c0,path=/run/a.sock,server=on" in nobody("nobody listens there")
    refused = nobody("Permission denied")
    assert "a guest needs" not in refused
    assert "chmod g+w /run/a.sock" in refused


def test_the_wait_between_attempts_grows_to_two_seconds_and_no_further(directory: Path) -> None:
    now = [0.0]
    dialer = listener.Dialer(str(directory / "none.sock"), lambda: now[0])
    waits = []
    for _ in range(12):
        assert dialer.dial() is None
        waits.append(dialer.due - now[0])
        now[0] = dialer.due
    assert 0.08 <= waits[0] <= 0.1
    assert all(1.6 <= wait <= 2.0 for wait in waits[5:])
    assert dialer.reason == "nobody listens there"
