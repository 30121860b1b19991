"""Feature bits: names, and that no more is offered than what is done."""

from __future__ import annotations

from fastvhost.frontend import features
from fastvhost.vhostuser import protocol_features


def test_exactly_what_is_implemented_is_offered() -> None:
    assert set(features.names(protocol_features.offered_features(1))) == {
        "MTU",
        "MRG_RXBUF",
        "ANY_LAYOUT",
        "INDIRECT_DESC",
        "EVENT_IDX",
        "PROTOCOL_FEATURES",
        "VERSION_1",
        "RING_PACKED",
        "IN_ORDER",
        "RING_RESET",
    }
    assert protocol_features.protocol_names(protocol_features.OFFERED_PROTOCOL_FEATURES) == [
        "MQ",
        "REPLY_ACK",
        "MTU",
        "RESET_DEVICE",
        "CONFIGURE_MEM_SLOTS",
        "STATUS",
    ]


def test_mq_is_offered_only_where_there_is_more_than_one_queue_pair() -> None:
    assert "MQ" not in features.names(protocol_features.offered_features(1))
    assert "MQ" in features.names(protocol_features.offered_features(2))


def test_names_go_from_the_lowest_bit_up_and_unknown_bits_have_a_number() -> None:
    assert features.names(1 << 32 | 1 << 15) == ["MRG_RXBUF", "VERSION_1"]
    assert features.names(1 << 47 | 1) == ["CSUM", "bit 47"]
    assert protocol_features.protocol_names(1 << 63) == ["bit 63"]
    assert features.names(0) == []
