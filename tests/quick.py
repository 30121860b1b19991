"""What `scripts/test --quick` runs, and what only `--long` does: a pytest plugin.

Quick is what a change is tried with every few minutes: all tests of units and of the house, and of each kind of test
with real peers one.
"""

from __future__ import annotations

import pytest

WHOLE = ("tests/unit/", "tests/house/")
PEERS, ATTACKS = "tests/integration/test_", "tests/hostile/test_attacks.py"
ATTACK = "a_buffer_one_byte_beyond_the_region"
ONE_OF_EACH = {
    "two QEMU guests": (f"{PEERS}two_guests.py", "::test_a_hundred_of_a_hundred_pings_are_answered"),
    "DPDK virtio-user, split rings": (f"{PEERS}virtio_user.py", "[mergeable, 256]"),
    "DPDK virtio-user, packed rings": (f"{PEERS}virtio_user.py", "[packed in order]"),
    "a tap": (f"{PEERS}tap_options.py", "::test_the_owner_of_a_tap_needs_no_rights_and_nobody_else_gets_it"),
    "a packet socket": (f"{PEERS}packet.py", "::test_a_vlan_tag_that_the_kernel_takes_out_is_put_back"),
    "libpcap": (f"{PEERS}pcap.py", "::test_an_interface_that_comes_late_goes_and_comes_back_is_captured_each_time"),
    "AF_XDP": (f"{PEERS}xdp.py", "::test_frames_of_every_bound_queue_arrive_as_they_were_sent_tags_and_all"),
    "an attack, split": (ATTACKS, f"[{ATTACK}]"),
    "an attack, split in order": (ATTACKS, f"[{ATTACK}-split_in_order]"),
    "an attack, packed": (ATTACKS, f"[{ATTACK}-packed]"),
    "an attack, packed in order": (ATTACKS, f"[{ATTACK}-packed_in_order]"),
}
"""In which file, and what the name of the test ends with."""


def kind_of(name: str) -> str | None:
    """Which of these a test is."""
    for kind, (file, end) in ONE_OF_EACH.items():
        if name.startswith(file) and name.endswith(end):
            return kind
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="units, the house, and one test of each kind with real peers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = [item for item in items if config.getoption("long") or not item.get_closest_marker("long")]
    if config.getoption("quick"):
        wanted = [item for item in wanted if item.nodeid.startswith(WHOLE) or kind_of(item.nodeid)]
        missing = ONE_OF_EACH.keys() - {kind_of(item.nodeid) for item in wanted}
        if missing and config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword:
            raise pytest.UsageError(f"--quick finds no test of {', '.join(sorted(missing))}: see tests/quick.py")
    if len(wanted) < len(items):
        chosen = set(wanted)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = wanted
