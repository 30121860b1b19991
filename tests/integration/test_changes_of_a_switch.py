"""A port comes and goes at a switch, and keys change, while guests under user-mode Linux talk to each other."""

from __future__ import annotations

import json

from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine
from tests.integration.test_changes_beside_guests import BACKGROUND, PINGS, change, dropped


def test_a_guest_joins_a_switch_talks_to_all_and_leaves_and_the_others_lose_nothing() -> None:
    with short_dir() as directory:
        machines = {name: UmlMachine(name, directory / f"{name}.sock", number) for number, name in enumerate("abc", 1)}
        ports = [machines["a"].port, machines["b"].port, "null:"]
        with (
            Fwd(directory, ports, ["--forward", "learn"]) as fwd,
            UmlGuest(machines["a"], directory) as a,
            UmlGuest(machines["b"], directory) as b,
        ):
            a.wait_ready(60)
            b.wait_ready(60)
            assert a.ping(b, 10) > 0
            before = dropped(fwd, "a", "b")
            # Few a second: a guest without a CPU takes no frames meanwhile, and a switch drops what finds no room.
            b.run(BACKGROUND.format(a.address))
            for _ in range(2):
                change(fwd, "port-add", spec=machines["c"].port)
                with UmlGuest(machines["c"], directory) as c:
                    c.wait_ready(60)
                    assert min(c.ping(other, 20) for other in (a, b)) > 0
                    rows = [json.loads(row) for row in fwd.ask("mac", "show", "--json").splitlines()]
                    assert {"c"} == {row["port"] for row in rows if row["address"] == machines["c"].mac}
                    c.run(BACKGROUND.format(a.address))
                    change(fwd, "port-del", name="c")
                    assert not (directory / "c.sock").exists()
                    assert machines["c"].mac not in fwd.ask("mac", "show", "--json")
                    assert a.ping(b, PINGS) > 0
                    c.kill()
            assert dropped(fwd, "a", "b") == before
            assert [line for line in fwd.warnings() if "front-end" not in line] == []
            assert fwd.stop() == 0


def test_keys_of_a_port_change_while_its_guest_runs() -> None:
    with short_dir() as directory:
        machines = [UmlMachine(name, directory / f"{name}.sock", number) for number, name in enumerate("ab", 1)]
        ports = [*(machine.port for machine in machines), "null:"]
        with (
            Fwd(directory, ports, ["--forward", "learn"]) as fwd,
            UmlGuest(machines[0], directory) as a,
            UmlGuest(machines[1], directory) as b,
        ):
            a.wait_ready(60)
            b.wait_ready(60)
            for keys, reaches in (
                (("a", "vlan=7"), False),
                (("b", "vlan=7", "isolate=x"), True),
                (("a", "isolate=x"), False),
                (("a", "vlan=", "isolate="), False),
                (("b", "vlan=", "isolate="), True),
                (("b", f"macs={machines[0].mac}"), False),
                (("b", f"macs={machines[1].mac}"), True),
            ):
                name, *values = keys
                assert fwd.ask("port", "set", *keys) == f"port {name} set: {', '.join(values)}\n"
                assert (a.ping(b, 2, max_wait=10 if reaches else 1) > 0) == reaches, keys
            assert [line for line in fwd.warnings() if "front-end" not in line] == []
            assert fwd.stop() == 0
