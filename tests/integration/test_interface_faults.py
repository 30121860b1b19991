"""Interfaces of three kinds go down, are removed and made again, while other ports of the same worker forward on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bench.guests.fwd import IN_PAIRS, Fwd
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import control_client
from tests.frontend import Frontend, Request, ring_fd
from tests.integration.namespace import Namespace

PORTS = ["tap:t0", "tap:t1", "packet:v0", "null:,name=n1", "pcap:w0", "null:,name=n2", "tap:t2", "null:,name=n3"]
CALL_AND_ERR = (Request.SET_VRING_CALL, Request.SET_VRING_ERR)
# Numbered frames, one a millisecond, into t0, and what comes out of t1, until it is told to stop.
STREAM = """
import json, select, socket, sys, time
out, back = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5)) for _ in range(2))
out.bind(("t0", 0))
back.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE: this program, too, may have to wait for a CPU
back.bind(("t1", 0x88b5))
sent, got, end = 0, [], None
while end is None or (len(got) < sent and time.monotonic() < end):
    if end is None:
        out.send(bytes(12) + b"\\x88\\xb5" + sent.to_bytes(46, "big"))
        sent += 1
        if select.select([sys.stdin], [], [], 0)[0]:
            end = time.monotonic() + 20
    time.sleep(0.001)
    while select.select([back], [], [], 0)[0]:
        got.append(int.from_bytes(back.recv(100)[14:], "big"))
print(json.dumps({"sent": sent, "lost": sent - len(got), "in_order": got == sorted(got)}))
"""


def others_go_on(fwd: Fwd) -> None:
    """Check that frames of the stream arrive in the present state of another port's interface."""

    def arrived() -> int:
        return int(fwd.stats()["ports"]["t1"]["tx_frames"])

    before = arrived()
    wait_until("frames of the stream arrive", MAX_WAIT, lambda: arrived() > before + 20)


def test_faults_of_interfaces_are_logged_and_mended_and_disturb_no_other_port(place: Path) -> None:
    with Namespace() as space:
        for veth in "vw":
            space.run(f"ip link add {veth}0 type veth peer name {veth}1")
            space.run(f"ip link set {veth}1 up; ip link set {veth}0 up")
        with Fwd(place, PORTS, IN_PAIRS, prefix=space.prefix) as fwd:
            wait_until("fwd answers", MAX_WAIT, fwd.control.exists)
            attached = {
                "v0": "packet socket on v0, MTU 1500",
                "w0": "capturing on w0 with libpcap, MTU 1500",
                "t2": "made tap t2, MTU 1500",
            }
            for name, words in attached.items():
                fwd.wait_log(f"port {name}: {words}", MAX_WAIT)
            command = [*space.prefix, sys.executable, "-c", STREAM]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stream:
                for name, words in attached.items():
                    mark = len(fwd.log())
                    space.run(f"ip link set {name} down")
                    told = f"port {name}: {name} is down; bring it up with: ip link set {name} up"
                    fwd.wait_log(told, MAX_WAIT, after=mark)
                    others_go_on(fwd)
                    mark = len(fwd.log())
                    space.run(f"ip link set {name} up")
                    fwd.wait_log(f"port {name}: ({words}|{name} is up)", MAX_WAIT, after=mark)
                    if name != "t2":
                        mark = len(fwd.log())
                        space.run(f"ip link set {name[0]}1 down")
                        fwd.wait_log(f"port {name}: {name} has no carrier; bring up", MAX_WAIT, after=mark)
                        others_go_on(fwd)
                        assert fwd.show(name)["link"] == "down"
                        mark = len(fwd.log())
                        space.run(f"ip link set {name[0]}1 up")
                        fwd.wait_log(f"port {name}: {name} is up", MAX_WAIT, after=mark)
                    mark = len(fwd.log())
                    space.run(f"ip link delete {name}")
                    fwd.wait_log(f"port {name}: {name} was removed; waiting for it to come back", MAX_WAIT, after=mark)
                    others_go_on(fwd)
                    if name != "t2":  # a tap is made again by fwd itself
                        space.run(f"ip link add {name} type veth peer name {name[0]}1; ip link set {name[0]}1 up")
                        space.run(f"ip link set {name} up")
                    fwd.wait_log(f"port {name}: {words}", MAX_WAIT, after=mark)
                said, _ = stream.communicate("stop", timeout=MAX_WAIT)
            result = json.loads(said)
    assert (result["lost"], result["in_order"]) == (0, True), result
    assert result["sent"] > 500


def test_a_front_end_that_takes_every_open_file_takes_no_interface_and_no_answer(place: Path) -> None:
    limit = 128
    with Namespace() as space:
        prefix = [*space.prefix, "prlimit", f"--nofile={limit}:{limit}"]
        ports = ["tap:t0", "null:", f"{place}/a.sock,queues=32", "null:,name=n2"]
        with Fwd(place, ports, IN_PAIRS, prefix=prefix) as fwd:
            fwd.wait_log("these 4 ports need .* once guests use all queues; raise the hard limit: LimitNOFILE=", 20)
            fwd.wait_log("port t0: made tap t0", 20)
            space.run("ip address add 10.9.9.1/24 dev t0")
            files = Path(f"/proc/{fwd.pid}/fd")
            attacker, event = Frontend.connect(place / "a.sock"), os.eventfd(0)
            attacker.negotiate()
            rings = [(index, request) for index in range(64) for request in CALL_AND_ERR]
            for index, request in rings:
                if len(list(files.iterdir())) == limit:
                    break
                attacker.tell(request, *ring_fd(index, event))
            before = sum(psutil.Process(fwd.pid).cpu_times()[:2])
            time.sleep(2.2)  # the tap is looked at every second
            assert len(list(files.iterdir())) == limit
            assert sum(psutil.Process(fwd.pid).cpu_times()[:2]) - before < 0.3
            (tap,) = control_client.ask(str(fwd.control), "show", port="t0")
            assert (tap["state"], tap["up"]) == ("made tap t0, MTU 1500", True)
            assert "10.9.9.1/24" in space.run("ip -brief address show dev t0")
            attacker.close()
            os.close(event)
