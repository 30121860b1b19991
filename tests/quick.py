"""What `scripts/test --quick` runs, and what only `--long` does: a pytest plugin.

Quick tests are for every few minutes of work: all tests of units and of the house, and one of each kind with real
peers.
"""

from __future__ import annotations

import re

import pytest

WHOLE = ("tests/unit/", "tests/house/", "tests/hostile/test_rules.py")
PEERS, ATTACKS = "tests/integration/test_", "tests/hostile/test_attacks.py"
ATTACK = r"\[\w+_buffer_(?:of|one|right|that|whose|with)_\w+"
"""An attack with a buffer where none may be, whichever that ring format has."""
ONE_OF_EACH = {
    "two QEMU guests": (f"{PEERS}two_guests.py", "test_a_hundred_of_a_hundred_pings_are_answered"),
    "two guests under user-mode Linux": (f"{PEERS}user_mode_linux.py", r"_pings_are_answered\[split\]"),
    "DPDK virtio-user, split rings": (f"{PEERS}virtio_user.py", r"\[mergeable, 256\]"),
    "DPDK virtio-user, packed rings": (f"{PEERS}virtio_user.py", r"\[packed in order\]"),
    "a tap": (f"{PEERS}tap_options.py", "test_the_owner_of_a_tap_needs_no_rights_and_nobody_else_gets_it"),
    "a packet socket": (f"{PEERS}packet.py", "test_a_vlan_tag_that_the_kernel_takes_out_is_put_back"),
    "libpcap": (f"{PEERS}pcap.py", "test_an_interface_that_comes_late_goes_and_comes_back_is_captured_each_time"),
    "AF_XDP": (f"{PEERS}xdp.py", "test_frames_of_every_bound_queue_arrive_as_they_were_sent_tags_and_all"),
    "an attack, split": (ATTACKS, rf"{ATTACK}\]"),
    "an attack, split in order": (ATTACKS, rf"{ATTACK}-split_in_order\]"),
    "an attack, packed": (ATTACKS, rf"{ATTACK}-packed\]"),
    "an attack, packed in order": (ATTACKS, rf"{ATTACK}-packed_in_order\]"),
}
"""The file, and a pattern for the end of the name: the first test that matches."""


def first_of_each(items: list[pytest.Item]) -> dict[str, pytest.Item]:
    found: dict[str, pytest.Item] = {}
    for kind, (file, end) in ONE_OF_EACH.items():
        fits = re.compile(rf"{re.escape(file)}::.*{end}$")
        if first := next((item for item in items if fits.match(item.nodeid)), None):
            found[kind] = first
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="units, the house, and one test of each kind with real peers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = [item for item in items if config.getoption("long") or not item.get_closest_marker("long")]
    some = first_of_each(wanted)
    if missing := expected(config, items) - some.keys():
        raise pytest.UsageError(f"--quick would have no test of {', '.join(sorted(missing))}: see tests/quick.py")
    if config.getoption("quick"):
        chosen = set(some.values())
        wanted = [item for item in wanted if item.nodeid.startswith(WHOLE) or item in chosen]
    if len(wanted) < len(items):
        kept = set(wanted)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = wanted


def expected(config: pytest.Config, items: list[pytest.Item]) -> set[str]:
    """The kinds of which a test must be found: those whose file was collected whole. So a renamed test is noticed."""
    if any(config.getoption(option, None) for option in ("keyword", "markexpr", "lf", "deselect")):
        return set()
    in_part = {arg.partition("::")[0] for arg in config.args if "::" in arg}
    files = {item.nodeid.partition("::")[0] for item in items} - in_part
    return {kind for kind, (file, _) in ONE_OF_EACH.items() if file in files}
