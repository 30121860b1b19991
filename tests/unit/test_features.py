"""Feature bits: names, and that only implemented features are offered."""

from __future__ import annotations

import pytest

from fastvhost.backend import features
from fastvhost.control import port_keys, port_text
from fastvhost.control.errors import UsageError
from fastvhost.vhostuser import protocol_features


def test_exactly_what_is_implemented_is_offered() -> None:
    assert set(features.names(protocol_features.offered_features(1))) == {
        "CSUM",
        "GUEST_CSUM",
        "GUEST_TSO4",
        "GUEST_TSO6",
        "GUEST_ECN",
        "HOST_TSO4",
        "HOST_TSO6",
        "HOST_ECN",
        "GUEST_USO4",
        "GUEST_USO6",
        "HOST_USO",
        "MTU",
        "MRG_RXBUF",
        "ANY_LAYOUT",
        "INDIRECT_DESC",
        "EVENT_IDX",
        "PROTOCOL_FEATURES",
        "VERSION_1",
        "RING_PACKED",
        "IN_ORDER",
    }
    assert protocol_features.protocol_names(protocol_features.offered_protocol_features(2)) == [
        "MQ",
        "REPLY_ACK",
        "MTU",
        "CONFIG",
        "RESET_DEVICE",
        "CONFIGURE_MEM_SLOTS",
        "STATUS",
    ]


def test_mq_is_offered_only_where_there_is_more_than_one_queue_pair() -> None:
    assert "MQ" not in features.names(protocol_features.offered_features(1))
    assert "MQ" in features.names(protocol_features.offered_features(2))
    # A front-end that reads GET_QUEUE_NUM as a number of virtqueues would find one too few.
    assert "MQ" not in protocol_features.protocol_names(protocol_features.offered_protocol_features(1))


def test_names_go_from_the_lowest_bit_up_and_unknown_bits_have_a_number() -> None:
    assert features.names(1 << 32 | 1 << 15) == ["MRG_RXBUF", "VERSION_1"]
    assert features.names(1 << 47 | 1) == ["CSUM", "bit 47"]
    assert protocol_features.protocol_names(1 << 63) == ["bit 63"]
    assert features.names(0) == []


@pytest.mark.parametrize("names", ["RING_PACKED", "MRG_RXBUF+IN_ORDER", "GUEST_ECN", "HOST_USO+HOST_ECN"])
def test_a_port_takes_the_names_of_features_that_it_is_not_to_offer(names: str) -> None:
    spec = port_text.parse(f"/tmp/a.sock,without={names}")
    assert sorted(spec.option("without").split("+")) == sorted(names.split("+"))
    assert port_text.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("names", "withheld"),
    [
        ("CSUM", "CSUM+HOST_TSO4+HOST_TSO6+HOST_ECN+HOST_USO"),
        ("GUEST_CSUM", "GUEST_CSUM+GUEST_TSO4+GUEST_TSO6+GUEST_ECN+GUEST_USO4+GUEST_USO6"),
        ("GUEST_TSO4+GUEST_TSO6", "GUEST_TSO4+GUEST_TSO6+GUEST_ECN"),
        ("HOST_TSO4", "HOST_TSO4"),
    ],
)
def test_nothing_is_offered_that_requires_what_is_withheld(names: str, withheld: str) -> None:
    """Virtio 1.2, section 2.2.2; what requires what stands in section 5.1.3.1."""
    assert port_keys.without("", names) == port_keys.without("", withheld)
    assert port_text.parse(f"/tmp/a.sock,without={names}").option("without") == withheld


@pytest.mark.parametrize("names", ["", "PACKED", "ring_packed", "RING_PACKED+", "MQ", "HOST_UFO"])
def test_only_features_that_would_be_offered_can_be_withheld(names: str) -> None:
    with pytest.raises(UsageError, match=r"no feature .* is offered; there are CSUM, .*MRG_RXBUF, .*RING_PACKED"):
        port_text.parse(f"/tmp/a.sock,without={names}")
    with pytest.raises(UsageError, match="no key 'without'"):
        port_text.parse("cuse:fv0,without=RING_PACKED")
