"""Who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house import sources

# What each room may use: rooms, or single modules. In order: no room uses one above it.
ALLOWED = {
    "cli": "control driver.guests driver.limit backend.foreign_text backend.keeper backend.qemu",
    "control": "vhostuser.service vhostcuse.service sockets hostside dataplane.ports"
    " dataplane.bridge dataplane.door dataplane.drop_reason dataplane.forwarding_table dataplane.hold_watch"
    " dataplane.port dataplane.rewiring dataplane.virtio_port dataplane.wire dataplane.worker"
    " dataplane.threads"
    " backend.foreign_text backend.foreign_files backend.features backend.record backend.qemu",
    "driver": "vhostuser.message backend.payload abi",
    # Two protocols that do not use each other; what they have in common is in the rooms below.
    "vhostuser": "sockets backend dataplane.queue_setup",
    "vhostcuse": "sockets backend",
    # Socket files, for ports and for the control socket.
    "sockets": "backend.errors",
    "hostside": "backend.logbook dataplane.door dataplane.ports dataplane.threads",
    "backend": "dataplane.guest_memory dataplane.door dataplane.notify dataplane.notifier dataplane.packed_journal"
    " dataplane.queue_setup dataplane.threads",
    "dataplane": "abi",
    "abi": "",
}
# Beside the rooms. Names of the package load their module at first use; `python -m fastvhost` is the command line.
PACKAGE = "fastvhost"
USE_THE_PACKAGE = ("cli", "control")
# What benchmarks and scripts may use of the tests: the def wrappers over what is measured.
PROBES = {f"tests.probes.{name}" for name in ("bench_dataplane", "bench_offload", "mac_tables", "ping_pong", "shares")}


def room(module: str) -> str:
    """control of fastvhost.control.stats; fastvhost of what lies beside the rooms."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ALLOWED else PACKAGE


def rule(one: sources.Import) -> str | None:
    """The entry of ALLOWED that allows it, None where there is none."""
    home = room(one.user)
    if home in (PACKAGE, room(one.used)):
        return home
    if one.used == PACKAGE:
        return PACKAGE if home in USE_THE_PACKAGE else None
    words = ALLOWED[home].split()
    return next((word for word in words if f"{one.used}.".startswith(f"{PACKAGE}.{word}.")), None)


def may(one: sources.Import) -> bool:
    """Whether the rules allow it."""
    return rule(one) is not None


def test_every_import_is_one_the_house_allows() -> None:
    wrong = [f"{one.user} uses {one.used}" for one in sources.imports() if not may(one)]
    assert wrong == []


def test_imports_go_downward_only() -> None:
    order = list(ALLOWED)
    for home, words in ALLOWED.items():
        below = order[order.index(home) + 1 :]
        assert [word for word in words.split() if word.split(".")[0] not in below] == [], home


def test_no_room_may_use_more_than_it_does() -> None:
    used = {(room(one.user), rule(one)) for one in sources.imports()}
    assert [(home, word) for home, words in ALLOWED.items() for word in words.split() if (home, word) not in used] == []
    assert [home for home in USE_THE_PACKAGE if (home, PACKAGE) not in used] == []


def test_every_folder_is_a_room() -> None:
    assert {path.parent.name for path in sources.PACKAGE.glob("*/__init__.py")} == set(ALLOWED)


def test_no_module_needs_itself_on_the_way() -> None:
    graph: dict[str, set[str]] = {}
    for one in sources.imports():
        if one.at_start:
            graph.setdefault(one.user, set()).add(one.used)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " > ".join([*way, module])
        if module not in done:
            for used in sorted(graph.get(module, ())):
                visit(used, (*way, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_protocol_is_plain_python_and_the_abi_holds_no_logic() -> None:
    for untrusting in ("vhostuser", "vhostcuse", "backend"):
        assert [path.name for path in (sources.PACKAGE / untrusting).iterdir() if path.suffix in (".pyx", ".pxd")] == []
    suffixes = {path.suffix for path in (sources.PACKAGE / "abi").iterdir() if path.is_file()}
    assert suffixes <= {".pxd", ".h", ".py"}
    assert [path.name for path in (sources.PACKAGE / "abi").glob("*.py")] == ["__init__.py"]


def of_the_tests(text: str) -> list[str]:
    """Modules of tests/ that a Python source imports anywhere."""
    imports = sources._python("", ast.parse(text))
    return [one.used for one in imports if one.used.split(".")[0] == "tests"]


def what_people_run() -> list[Path]:
    """Python in bench/, scripts/ and examples/; a script has no suffix."""
    found = [path for folder in ("bench", "scripts", "examples") for path in (sources.ROOT / folder).rglob("*")]
    return sorted(path for path in found if path.is_file() and (path.suffix == ".py" or is_python(path)))


def is_python(path: Path) -> bool:
    """Whether its first line says so."""
    with path.open("rb") as file:
        return file.readline().startswith(b"#!/usr/bin/env python3")


def test_what_people_run_does_not_depend_on_the_tests() -> None:
    users = {str(path.relative_to(sources.ROOT)): of_the_tests(path.read_text()) for path in what_people_run()}
    assert {"bench/paths.py", "bench/guests/qemu.py", "scripts/paths", "scripts/outer-guest"} <= users.keys()
    assert {user: used for user, used in users.items() if set(used) - PROBES} == {}


def test_an_import_from_the_tests_is_seen_wherever_it_stands() -> None:
    text = "import tests.driver as driver\ndef f():\n    from tests.unit.rig import Rig\nimport testsuite\nimport os\n"
    assert sorted(of_the_tests(text)) == ["tests.driver", "tests.unit.rig"]


@pytest.mark.parametrize(
    ("user", "used", "allowed"),
    [
        ("fastvhost.dataplane.ring", "fastvhost.control.stats", False),
        ("fastvhost.backend.rings", "fastvhost.dataplane.split_ring", False),
        ("fastvhost.backend.memory", "fastvhost.dataplane.guest_memory", True),
        ("fastvhost.vhostuser.session", "fastvhost.dataplane.guest_memory", False),
        ("fastvhost.driver.frontend", "fastvhost.vhostuser.message", True),
        ("fastvhost.vhostcuse.session", "fastvhost.backend.session_state", True),
        ("fastvhost.vhostcuse.session", "fastvhost.vhostuser.message", False),
        ("fastvhost.vhostuser.session", "fastvhost.vhostcuse.session", False),
        ("fastvhost.backend.session_state", "fastvhost.vhostuser.message", False),
        ("fastvhost.hostside.service", "fastvhost.backend.control_thread", False),
        ("fastvhost.driver.frontend", "fastvhost.vhostuser.session", False),
        ("fastvhost.control.stats", "fastvhost", True),
        ("fastvhost.backend.logbook", "fastvhost", False),
        ("fastvhost.control.wiring", "fastvhost.dataplane.port_api", False),
        ("fastvhost.control.stats", "fastvhost.cli.text", False),
        ("fastvhost.abi.virtio_ring", "fastvhost.dataplane.ring", False),
    ],
)
def test_this_test_tells_right_from_wrong(user: str, used: str, allowed: bool) -> None:
    assert may(sources.Import(user, used, True)) is allowed


def test_imports_of_every_spelling_are_seen() -> None:
    text = "from fastvhost.dataplane.ring cimport (\n    a,\n    b,\n)\ncimport fastvhost.dataplane.port\n  import os\n"
    text += 'cdef extern from "fastvhost/abi/shared_memory.h" nogil:\n'
    seen = {one.used for one in sources._cython("x", text)}
    assert {"fastvhost.dataplane.ring", "fastvhost.dataplane.port", "fastvhost.abi.shared_memory"} <= seen
