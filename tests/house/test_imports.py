"""Who may import whom. HOUSE.md, section 3."""

from __future__ import annotations

import pytest

from tests.house import sources

# What each room may use, as prefixes of module names; its own modules go without saying.
ALLOWED = {
    # Names of the package load their module at first use; `python -m fastvhost` is the command line.
    "fastvhost": ("fastvhost.",),
    "fastvhost.cli": ("fastvhost", "fastvhost.control", "fastvhost.driver.guests", "fastvhost.driver.limit"),
    "fastvhost.control": (
        "fastvhost",
        "fastvhost.vhostuser.service",
        "fastvhost.vhostuser.endpoint",
        "fastvhost.vhostcuse.service",
        "fastvhost.hostside",
        "fastvhost.dataplane.ports",
        *(f"fastvhost.dataplane.{name}" for name in ("door", "drop_reason", "port", "virtio_port", "worker")),
    ),
    "fastvhost.driver": ("fastvhost.vhostuser.message", "fastvhost.frontend.payload", "fastvhost.abi"),
    # Two wires, and neither knows of the other: what they have in common is the room below.
    "fastvhost.vhostuser": ("fastvhost.frontend",),
    "fastvhost.vhostcuse": ("fastvhost.frontend",),
    "fastvhost.hostside": ("fastvhost.frontend.logbook", "fastvhost.dataplane.ports"),
    "fastvhost.frontend": ("fastvhost.dataplane.guest_memory", "fastvhost.dataplane.door"),
    "fastvhost.dataplane": ("fastvhost.abi",),
    "fastvhost.abi": (),
}
EXACT = {"fastvhost"}


def room(module: str) -> str:
    """fastvhost.control of fastvhost.control.stats; fastvhost of what lies beside the rooms."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ALLOWED else parts[0]


def may(one: sources.Import) -> bool:
    """Whether the house allows it."""
    home = room(one.user)
    if room(one.used) == home:
        return True
    return any(
        one.used == prefix or (prefix not in EXACT and one.used.startswith(prefix.rstrip(".") + "."))
        for prefix in ALLOWED[home]
    )


def test_every_import_is_one_the_house_allows() -> None:
    wrong = [f"{one.user} uses {one.used}" for one in sources.imports() if not may(one)]
    assert wrong == []


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
    for untrusting in ("vhostuser", "vhostcuse", "frontend"):
        assert [path.name for path in (sources.PACKAGE / untrusting).iterdir() if path.suffix in (".pyx", ".pxd")] == []
    suffixes = {path.suffix for path in (sources.PACKAGE / "abi").iterdir() if path.is_file()}
    assert suffixes <= {".pxd", ".h", ".py"}
    assert [path.name for path in (sources.PACKAGE / "abi").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    ("user", "used", "allowed"),
    [
        ("fastvhost.dataplane.net", "fastvhost.control.stats", False),
        ("fastvhost.frontend.rings", "fastvhost.dataplane.split_ring", False),
        ("fastvhost.frontend.memory", "fastvhost.dataplane.guest_memory", True),
        ("fastvhost.vhostuser.session", "fastvhost.dataplane.guest_memory", False),
        ("fastvhost.driver.frontend", "fastvhost.vhostuser.message", True),
        ("fastvhost.vhostcuse.session", "fastvhost.frontend.front_end", True),
        ("fastvhost.vhostcuse.session", "fastvhost.vhostuser.message", False),
        ("fastvhost.vhostuser.session", "fastvhost.vhostcuse.session", False),
        ("fastvhost.frontend.front_end", "fastvhost.vhostuser.message", False),
        ("fastvhost.hostside.service", "fastvhost.frontend.control_thread", False),
        ("fastvhost.driver.frontend", "fastvhost.vhostuser.session", False),
        ("fastvhost.control.stats", "fastvhost", True),
        ("fastvhost.control.stats", "fastvhost.cli.text", False),
        ("fastvhost.abi.virtio_ring", "fastvhost.dataplane.net", False),
    ],
)
def test_this_test_tells_right_from_wrong(user: str, used: str, allowed: bool) -> None:
    assert may(sources.Import(user, used, True)) is allowed


def test_imports_of_every_spelling_are_seen() -> None:
    text = "from fastvhost.dataplane.net cimport (\n    a,\n    b,\n)\ncimport fastvhost.dataplane.port\n  import os\n"
    text += 'cdef extern from "fastvhost/abi/shared_memory.h" nogil:\n'
    seen = {one.used for one in sources._cython("x", text)}
    assert {"fastvhost.dataplane.net", "fastvhost.dataplane.port", "fastvhost.abi.shared_memory"} <= seen
