"""Two Linux kernels that leave more or less to their cards: whatever one sends, the other gets what it agreed to.

Streams are equal at both ends, and a capture where they arrive has no bad checksum and no frame that is too long.
With --long all 256 of offload_matrix, which take a minute and a half; else those that have every pair of values.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.guests import traffic
from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from tests.integration.frame_capture import ETHERNET, VLAN_TAG_BYTES, found_bad, with_a_bit_turned
from tests.integration.offload_matrix import BYTES, MTU, Cell, Matrix, address, cells_of, some_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        ways = (False, True) if metafunc.config.getoption("--long") else (False,)
        chosen = [(way, cell) for way in ways for cell in cells_of(way)]
        if len(ways) == 1:
            chosen = [(False, cell) for cell in some_of(cells_of(False))]
        metafunc.parametrize(
            ("matrix", "cell"), chosen, indirect=["matrix"], ids=[str(cell) for _, cell in chosen], scope="module"
        )
    else:
        metafunc.parametrize("matrix", [False], indirect=True, ids=[""], scope="module")


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest) -> Iterator[Matrix]:
    with short_dir() as directory, Matrix(directory, request.param) as matrix:
        yield matrix


def test_what_arrives_is_what_was_sent_and_what_was_agreed(matrix: Matrix, cell: Cell) -> None:
    matrix.show(cell)
    assert matrix.fwd.warnings() == []


def bytes_a_frame(matrix: Matrix, port: str) -> float:
    """Of the next frames that come from a port, five hundred at least."""
    frames, bytes = matrix.rx(port)
    wait_until("frames go on", MAX_WAIT, lambda: matrix.rx(port)[0] >= frames + 500)
    now = matrix.rx(port)
    return (now[1] - bytes) / (now[0] - frames)


def test_a_sender_that_switches_its_offloads_under_traffic_is_followed(matrix: Matrix) -> None:
    a, b = matrix.guests
    port, there = "a0", address(0, 2, tagged=False, ip=4)
    switch = "/run/shared/ethtool -K eth0"
    b.run(f"/run/shared/traffic receive tcp {traffic.PORT}")
    a.run(f"/run/shared/traffic send tcp {there} {traffic.PORT} {10**12} > /tmp/said 2>&1 &")
    assert bytes_a_frame(matrix, port) > 2 * MTU
    for offload in ("tso", "tx"):
        # Checksums are what TSO stands on: without them there is none.
        assert "tso" not in a.run(f"{switch} {offload} off").split()
        wait_until("frames are small", MAX_WAIT, lambda: bytes_a_frame(matrix, port) <= MTU + 14)
        assert "tso" in a.run(f"{switch} {offload} on").split()
        wait_until("frames are large again", MAX_WAIT, lambda: bytes_a_frame(matrix, port) > 2 * MTU)
    for state in ("off", "on"):
        a.run(f"{switch} gso {state}")
        assert bytes_a_frame(matrix, port) > 0
    a.run("killall traffic; while pidof traffic > /dev/null; do usleep 10000; done", 60)
    sent, received = (line.split()[1:] for line in a.run("cat /tmp/said").splitlines())
    assert sent == received
    assert int(sent[0]) > BYTES
    assert matrix.fwd.warnings() == []


def test_tshark_finds_no_bad_checksum_and_no_frame_that_is_too_long(matrix: Matrix) -> None:
    if not matrix.captured.exists():  # this test alone was asked for
        matrix.show(cells_of(False)[0])
    longest = ETHERNET + VLAN_TAG_BYTES + MTU
    assert found_bad(matrix.captured, longest) == []
    # It would find both.
    spoilt = matrix.directory / "spoilt.pcap"
    spoilt.write_bytes(with_a_bit_turned(matrix.captured.read_bytes()))
    assert len(found_bad(spoilt, longest)) == 1
    assert found_bad(matrix.captured, longest - 1 - VLAN_TAG_BYTES) != []


def test_no_kernel_found_a_bad_checksum(matrix: Matrix) -> None:
    for guest in matrix.guests:
        names, counts = (line.split() for line in guest.run("grep ^Tcp: /proc/net/snmp").splitlines())
        assert dict(zip(names, counts, strict=True))["InCsumErrors"] == "0"
        names, counts = (line.split() for line in guest.run("grep ^Udp: /proc/net/snmp").splitlines())
        assert dict(zip(names, counts, strict=True))["InCsumErrors"] == "0"
