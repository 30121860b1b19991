"""Ports and wires come and go beside two guests under user-mode Linux that talk to each other."""

from __future__ import annotations

from pathlib import Path

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import control_client
from fastvhost.control.errors import RuntimeFailure

PINGS = 100
BACKGROUND = "ping -i 0.05 -q {} > /dev/null 2>&1 &"
HOLDS = ("--on-full", "hold", "--hold-timeout", "600s")
"""A guest that gets no CPU for seconds takes no frames meanwhile."""


def dropped(fwd: Fwd, *ports: str) -> list[int]:
    """Frames that were dropped at these ports, each way."""
    stats = fwd.stats()["ports"]
    return [sum(stats[port][f"{way}_dropped"].values()) for port in ports for way in ("rx", "tx")]


def is_balanced(fwd: Fwd, left: str, right: str) -> bool:
    """What came from either of two ports that are joined has left at the other one, or was dropped and counted."""
    stats = fwd.stats()["ports"]
    return all(
        stats[one]["rx_frames"]
        == stats[other]["tx_frames"] + sum(stats[one]["rx_dropped"].values()) + sum(stats[other]["tx_dropped"].values())
        for one, other in ((left, right), (right, left))
    )


def change(fwd: Fwd, command: str, **request: str) -> None:
    """Again where the worker had no CPU for so long that nothing was changed."""

    def answered() -> bool:
        try:
            control_client.ask(str(fwd.control), command, seconds=MAX_WAIT, **request)
        except RuntimeFailure as error:
            if "does not come to the door" not in str(error):
                raise
            return False
        return True

    wait_until("a worker that comes to the door", 2 * MAX_WAIT, answered)


def rx_frames(fwd: Fwd, port: str) -> int:
    return int(fwd.stats()["ports"][port]["rx_frames"])


def test_a_port_is_added_wired_used_and_removed_while_two_guests_talk() -> None:
    with short_dir() as directory:
        machines = {name: UmlMachine(name, directory / f"{name}.sock", number) for number, name in enumerate("abc", 1)}
        ports = [machines["a"].port, machines["b"].port]
        with (
            Fwd(directory, ports, ["--wire", "a:b", *HOLDS]) as fwd,
            UmlGuest(machines["a"], directory) as a,
            UmlGuest(machines["b"], directory) as b,
        ):
            a.wait_ready(60)
            b.wait_ready(60)
            assert a.ping(b, 10) > 0
            before = dropped(fwd, "a", "b")
            b.run(BACKGROUND.format(a.address))
            change(fwd, "port-add", spec=machines["c"].port)
            change(fwd, "port-add", spec="null:")
            change(fwd, "wire-add", wire="c:null")
            with UmlGuest(machines["c"], directory) as c:
                c.wait_ready(60)
                c.run("ping -i 0.005 -q 10.0.0.255 > /dev/null 2>&1 &")
                wait_until("frames of c", MAX_WAIT, lambda: rx_frames(fwd, "c") > 10)
                change(fwd, "port-del", name="c")
                assert not Path(directory / "c.sock").exists()
                assert a.ping(b, PINGS) > 0
                b.run("killall ping")
                wait_until("all frames of a and b are accounted for", MAX_WAIT, lambda: is_balanced(fwd, "a", "b"))
                assert dropped(fwd, "a", "b") == before
                c.kill()
            # The same guest again, now at the wire of a: the other one is left alone.
            change(fwd, "port-add", spec=machines["c"].port)
            change(fwd, "wire-del", wire="a:b")
            change(fwd, "wire-add", wire="a:c")
            with UmlGuest(machines["c"], directory) as c:
                c.wait_ready(60)
                assert c.ping(a, 20) > 0
                assert b.run(f"ping -c 2 -W 1 -q {a.address} 2>&1; true").count("100% packet loss") == 1
            assert [line for line in fwd.warnings() if "front-end" not in line] == []
            assert fwd.stop() == 0
