"""VLANs at the ports of a switch: who gets a frame, and with which tag. IEEE 802.1Q, clauses 6.9 and 8.6."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fastvhost.backend.features import NET_F_CSUM, NET_F_GUEST_CSUM, NET_F_HOST_TSO4, NET_F_HOST_TSO6, mask
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.worker import Worker
from tests.driver import NET_HEADER, Piece
from tests.segmenter import NEEDS_CSUM, SuperFrame, finished
from tests.standstill import settle
from tests.unit.rig import F_RING_PACKED, F_VERSION_1, NET_F_MRG_RXBUF, RING_F_INDIRECT_DESC, mapped
from tests.unit.vlan_hub import (
    EVERYBODY,
    NO_KEYS,
    TPID,
    Keys,
    Model,
    access,
    ethernet,
    mac,
    tag,
    trunk,
    vlan_hub,
)

PLAIN = F_VERSION_1 | RING_F_INDIRECT_DESC
FORMATS = {"split": PLAIN, "packed": PLAIN | F_RING_PACKED}
formats = pytest.mark.parametrize("features", FORMATS.values(), ids=FORMATS.keys())


@formats
def test_access_ports_of_one_vlan_reach_each_other_without_a_tag_and_no_other(features: int) -> None:
    with vlan_hub(access(10), access(10), access(20), access(10), features=features) as h:
        first, answer = ethernet(EVERYBODY, mac(0)), ethernet(mac(0), mac(1))
        assert h.send(0, first) == {1: first, 3: first}
        assert h.send(1, answer) == {0: answer}
        # In the other VLAN nobody has this address, and nobody else is there.
        assert h.send(2, ethernet(mac(0), mac(2))) == {}
        assert h.dropped(2) == {"no_egress": 1}


@formats
def test_a_tag_is_pushed_towards_a_trunk_and_popped_towards_an_access_port(features: int) -> None:
    with vlan_hub(access(10), trunk(10, 20), access(20), features=features) as h:
        assert h.send(0, ethernet(EVERYBODY, mac(0))) == {1: ethernet(EVERYBODY, mac(0), tag(10))}
        assert h.send(1, ethernet(mac(0), mac(1), tag(10, 0xB))) == {0: ethernet(mac(0), mac(1))}
        assert h.send(1, ethernet(EVERYBODY, mac(1), tag(20))) == {2: ethernet(EVERYBODY, mac(1))}
        assert h.send(0, ethernet(mac(1), mac(0))) == {1: ethernet(mac(1), mac(0), tag(10))}


@formats
def test_frames_of_the_native_vlan_have_no_tag_at_its_trunk_and_may_arrive_with_one(features: int) -> None:
    with vlan_hub(trunk(1, 10, native=1), access(1), trunk(1, 10), features=features) as h:
        plain, tagged = ethernet(EVERYBODY, mac(0)), ethernet(EVERYBODY, mac(0), tag(1))
        assert h.send(0, plain) == {1: plain, 2: tagged}
        assert h.send(0, tagged) == {1: plain, 2: tagged}
        assert h.send(2, tagged) == {0: plain, 1: plain}
        assert h.send(2, plain) == {}
        assert h.dropped(2) == {"vlan_denied": 1}


@formats
@pytest.mark.parametrize(
    ("keys", "tags"),
    [
        (access(10), tag(10)),
        (access(10), tag(20)),
        (trunk(10, 20), tag(30)),
        (trunk(10, 20), tag(4095)),
        (trunk(10, 20), b""),
        (trunk(10, 20), tag(0, 0xE)),
        (None, tag(4095)),
    ],
    ids=["own", "other", "not-of-the-trunk", "4095", "no-native", "priority", "4095-at-all"],
)
def test_a_frame_of_a_vlan_that_its_port_has_not_is_dropped_and_its_source_not_learned(
    features: int, keys: Keys | None, tags: bytes
) -> None:
    with vlan_hub(keys, trunk(10, 20, 30, native=10), features=features) as h:
        assert h.send(0, ethernet(EVERYBODY, mac(0), tags)) == {}
        assert h.dropped(0) == {"vlan_denied": 1}
        assert h.bridge.table.rows() == []


@formats
def test_an_address_is_learned_in_each_vlan_by_itself(features: int) -> None:
    with vlan_hub(access(10), access(20), trunk(10, 20), features=features) as h:
        for port in (0, 1):
            h.send(port, ethernet(EVERYBODY, mac(7)))
        for vlan, port in ((10, 0), (20, 1)):
            assert h.send(2, ethernet(mac(7), mac(2), tag(vlan))) == {port: ethernet(mac(7), mac(2))}
        assert {(row.vlan, row.port) for row in h.bridge.table.rows()} == {(10, 0), (20, 1), (10, 2), (20, 2)}


@formats
def test_a_static_address_at_a_port_that_is_no_member_gets_nothing(features: int) -> None:
    with vlan_hub(access(10), access(20), features=features) as h:
        h.bridge.table.add("52:54:00:00:00:01", 1, 10)
        assert h.send(0, ethernet(mac(1), mac(0))) == {}
        assert h.dropped(0) == {"vlan_denied": 1}


@formats
def test_two_tags_pass_a_trunk_unharmed_and_the_outer_one_decides(features: int) -> None:
    with vlan_hub(trunk(10, 20), trunk(10, 30), trunk(20), features=features) as h:
        twice = ethernet(EVERYBODY, mac(0), tag(10, 5) + tag(20, 3))
        assert h.send(0, twice) == {1: twice}
        # 802.1ad's outer tag is no tag of this switch: the frame is untagged, which these trunks do not take.
        assert h.send(0, ethernet(EVERYBODY, mac(0), b"\x88\xa8\0\x0a" + tag(20))) == {}


@formats
@pytest.mark.parametrize("native", [trunk(5, 7, native=5), access(5)], ids=["native", "access"])
def test_no_tag_comes_to_light_that_the_sender_put_behind_another_one(features: int, native: Keys) -> None:
    """Double tagging: whoever gets the frame without its outer tag would put it into VLAN 7."""
    with vlan_hub(access(5), native, trunk(5), features=features) as h:
        hidden = tag(0) + tag(7)
        assert h.send(0, ethernet(EVERYBODY, mac(0), hidden)) == {2: ethernet(EVERYBODY, mac(0), tag(5) + tag(7))}
        h.send(1, ethernet(EVERYBODY, mac(1)))
        assert h.send(0, ethernet(mac(1), mac(0), hidden)) == {}
        assert h.dropped(0) == {"vlan_denied": 1}


@formats
def test_a_priority_tag_is_none_and_its_priority_stays_with_a_tag(features: int) -> None:
    with vlan_hub(access(10), access(10), trunk(10), features=features) as h:
        got = h.send(0, ethernet(EVERYBODY, mac(0), tag(0, 0xD)))
        assert got == {1: ethernet(EVERYBODY, mac(0)), 2: ethernet(EVERYBODY, mac(0), tag(10, 0xD))}


@formats
def test_without_keys_at_any_port_frames_pass_as_they_are_whatever_their_tags(features: int) -> None:
    with vlan_hub(None, None, None, features=features) as h:
        for tags in (b"", tag(10), tag(0, 7), tag(4095), tag(3) + tag(4)):
            one = ethernet(EVERYBODY, mac(0), tags)
            assert h.send(0, one) == {1: one, 2: one}
        # And an address is where it was last seen, in whatever VLAN.
        assert h.send(1, ethernet(mac(0), mac(1), tag(77))) == {0: ethernet(mac(0), mac(1), tag(77))}


@formats
def test_beside_ports_with_keys_one_without_is_a_trunk_of_all_vlans(features: int) -> None:
    with vlan_hub(None, access(10), None, features=features) as h:
        plain, tagged = ethernet(EVERYBODY, mac(0)), ethernet(EVERYBODY, mac(0), tag(10))
        assert h.send(0, plain) == {2: plain}
        assert h.send(0, tagged) == {1: plain, 2: tagged}
        assert h.send(1, plain) == {0: tagged, 2: tagged}


PORTS = (access(10), access(20), trunk(10, 20, 30), trunk(20, 30, native=20), None, trunk(*range(1, 4095), native=7))
BUFFERS = {"whole": (2048, 0), "merged": (64, NET_F_MRG_RXBUF), "header-alone": (12, NET_F_MRG_RXBUF)}


def some_frame(dice: random.Random, sender: int, number: int) -> bytes:
    """A frame that is like no other, tagged somehow. The two access ports have an address in common, in two VLANs."""
    vlan = dice.choice([0, 7, 10, 20, 30, 40, 4095])
    tags = dice.choice([b"", tag(vlan, dice.randrange(16)), tag(vlan), tag(vlan) + tag(10), TPID])
    to = dice.choice([EVERYBODY, b"\1\0\x5e\0\0\1", *(mac(i) for i in range(len(PORTS))), mac(99)])
    source = mac(dice.choice([sender, 99 if sender < 2 else sender]))
    bytes_left = dice.choice([0, 1, 2, 3, 4, 5, 46, 200])
    head = to + source + tags + dice.choice([b"\x08\0", b"\x88\xb5", b""])
    return head.ljust(14, b"\0") + number.to_bytes(4, "big")[:bytes_left].ljust(bytes_left, b"x")


@formats
@pytest.mark.parametrize(("buffers", "more"), BUFFERS.values(), ids=BUFFERS.keys())
def test_any_frames_in_any_pieces_arrive_as_the_model_says(features: int, buffers: int, more: int) -> None:
    dice = random.Random(7)
    with vlan_hub(*PORTS, features=features | more, buffers=buffers) as h:
        model = Model([keys or NO_KEYS for keys in PORTS])
        for _ in range(25):
            sender, wanted = dice.randrange(len(PORTS)), Counter[tuple[int, bytes]]()
            for number in range(12):
                frame = some_frame(dice, sender, number)
                wanted.update(model.send(sender, frame).items())
                cuts = sorted(dice.sample(range(1, 12 + len(frame)), dice.choice([0, 0, 1, 2, 4])))
                h.send_pieces(sender, frame, cuts)
            h.settle()
            got = Counter((port, frame) for port in range(len(PORTS)) for frame in h.arrived(port))
            assert got == wanted
            for guest in h.guests:
                guest.driver.reclaim()
        dropped = sum((Counter(h.dropped(port)) for port in range(len(PORTS))), Counter())
        assert dropped == Counter(model.dropped)


@formats
def test_a_burst_of_one_kind_and_of_several_keeps_its_order(features: int) -> None:
    for kinds in ((b"",), (tag(20),), (b"", tag(20), tag(30, 3))):
        with vlan_hub(trunk(10, 20, 30, native=10), trunk(10, 20, 30), access(20), access(10), features=features) as h:
            for port, vlan in ((1, tag(10)), (1, tag(20)), (1, tag(30)), (2, b""), (3, b"")):
                h.send(port, ethernet(EVERYBODY, mac(port), vlan))
            for to in (mac(1), mac(2), EVERYBODY):
                sent = [ethernet(to, mac(0), kinds[i % len(kinds)], bytes([i]) * 46) for i in range(40)]
                wanted: dict[int, list[bytes]] = {i: [] for i in range(4)}
                model = Model([trunk(10, 20, 30, native=10), trunk(10, 20, 30), access(20), access(10)])
                for vlan in (10, 20, 30):
                    model.seen[vlan, mac(1)] = 1
                model.seen[20, mac(2)] = 2
                for frame in sent:
                    for port, arrives in model.send(0, frame).items():
                        wanted[port].append(arrives)
                h.guests[0].driver.send_at_once(*sent)
                h.settle()
                for port in range(4):
                    got = h.arrived(port)
                    for tags in {frame[12:16] for frame in got}:
                        assert [f for f in got if f[12:16] == tags] == [f for f in wanted[port] if f[12:16] == tags]
                    assert sorted(got) == sorted(wanted[port])


@formats
@pytest.mark.parametrize("odd", [0, 1, 20])
def test_of_frames_that_begin_alike_one_with_a_hidden_tag_is_dropped(features: int, odd: int) -> None:
    with vlan_hub(trunk(10), access(10), features=features) as h:
        h.send(1, ethernet(EVERYBODY, mac(1)))
        plain = [ethernet(mac(1), mac(0), b"", bytes([i]) * 46) for i in range(21)]
        sent = [ethernet(mac(1), mac(0), tag(10), bytes([i]) * 46) for i in range(21)]
        sent[odd] = ethernet(mac(1), mac(0), tag(10) + tag(20))
        h.guests[0].driver.send_at_once(*sent)
        h.settle()
        assert h.arrived(1) == [frame for i, frame in enumerate(plain) if i != odd]
        assert h.dropped(0) == {"vlan_denied": 1}


@formats
def test_frames_that_begin_alike_get_and_lose_tags_in_buffers_in_pieces(features: int) -> None:
    with vlan_hub(access(10), trunk(10), features=features | NET_F_MRG_RXBUF, buffers=48) as h:
        h.send(1, ethernet(EVERYBODY, mac(1), tag(10)))
        bare, tagged = (
            [ethernet(mac(1 - at), mac(at), tags, bytes([i]) * 46) for i in range(20)]
            for at, tags in ((1, b""), (0, tag(10)))
        )
        for at, sent, wanted in ((1, [f[:12] + tag(10) + f[12:] for f in bare], bare),
                                 (0, [f[:12] + f[16:] for f in tagged], tagged)):  # fmt: skip
            h.guests[at].driver.send_at_once(*sent)
            h.settle()
            assert h.arrived(1 - at) == wanted


@formats
@pytest.mark.parametrize(
    ("sender", "receiver"), [(access(10), trunk(10)), (trunk(10), access(10))], ids=["pushed", "popped"]
)
def test_frames_that_are_taken_back_with_their_tag_changed_are_uncounted_as_they_came(
    features: int, sender: Keys, receiver: Keys
) -> None:
    with vlan_hub(sender, receiver, features=features | NET_F_MRG_RXBUF) as h:
        one, other = h.guests
        h.send(1, ethernet(EVERYBODY, mac(1), tag(10) if receiver.tagged else b""))
        frame = ethernet(mac(1), mac(0), tag(10) if sender.tagged else b"")
        for n in (64, 64, 30):
            if n == 30:  # into buffers in so many pieces that a visit ends before its burst
                for _ in range(40):
                    at = other.memory.take(128)
                    table = [Piece(at + 4 * i, 4, writable=True) for i in range(32)]
                    other.driver.post_chain([other.driver.receiveq.indirect(table)])
            one.driver.send_at_once(*[frame] * n)
            h.worker.step()
        assert h.worker.waiting > 10
        one.port.set_memory(mapped(one.memory))
        h.settle()
        counters = one.port.counters()
        assert counters.rx_bytes == counters.rx_frames * len(frame)


def test_ports_of_other_kinds_get_and_send_tags_as_well() -> None:
    """Their frames follow no virtio-net header, and what a frame begins with is a piece of its own for them."""
    door, table = Door(), ForwardingTable(ports=4)
    ports = [Endpoint(name, door) for name in "abcd"]
    bridge, worker = Bridge(tuple(ports), table), Worker(door)
    for number, keys in enumerate((access(10), trunk(10, 20), access(10), trunk(20))):
        bridge.set_vlans(number, native=keys.native, tagged=keys.tagged)
        worker.add_wire(ports[number], None, hold=False, hold_timeout_ms=1, bridge=bridge)
    bare, tagged = ethernet(EVERYBODY, mac(1)), ethernet(EVERYBODY, mac(1), tag(10))
    back = ethernet(mac(1), mac(2)), ethernet(mac(1), mac(2), tag(10))
    for sender, sent, wanted in (
        (0, bare, [[], [tagged], [bare], []]),
        (1, tagged, [[bare], [], [bare], []]),
        (2, back[0], [[], [back[1]], [], []]),
    ):
        ports[sender].send([sent])
        settle(worker)
        assert [[bytes(frame) for frame in port.recv(timeout=0)] for port in ports] == wanted
    worker.close()


SUPER = SuperFrame(bytes(range(256)) * 12, 1000)
ADDRESSES = bytes(range(12))
SENDS = mask(NET_F_CSUM, NET_F_HOST_TSO4, NET_F_HOST_TSO6)
TAKES = SENDS | mask(NET_F_GUEST_CSUM)
TAKES_ALL = TAKES | 1 << 7 | 1 << 8
"""NET_F_GUEST_TSO4 and _TSO6."""


def header_of(one: SuperFrame) -> bytes:
    return NET_HEADER.pack(*one.asks, 0)


@formats
@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("tags", [b"", tag(10)])
def test_super_frames_are_cut_or_passed_on_with_their_tag_changed(features: int, ipv6: bool, tags: bytes) -> None:
    ports = (trunk(10) if tags else access(10), access(10), trunk(10), access(10), trunk(10))
    each = [features | SENDS, features | SENDS, features | SENDS, features | TAKES_ALL, features | TAKES_ALL]
    sent = SUPER._replace(ipv6=ipv6, tags=tags)
    with vlan_hub(*ports, features=each, buffers=4096) as h:
        h.guests[0].driver.send(sent.frame, header_of(sent))
        h.settle()
        for port, arrives in ((1, b""), (2, tag(10))):
            assert h.arrived(port) == list(sent._replace(tags=arrives).pieces)
        for port, arrives in ((3, b""), (4, tag(10))):
            whole = sent._replace(tags=arrives)
            assert h.arrived(port) == [whole.frame]
            assert NET_HEADER.unpack(h.guests[port].driver.received_header)[:6] == whole.asks


@formats
@pytest.mark.parametrize("tags", [b"", tag(10)])
def test_where_a_checksum_is_to_be_filled_in_moves_with_the_tag(features: int, tags: bytes) -> None:
    ports = (trunk(10) if tags else access(10), access(10), trunk(10), access(10), trunk(10))
    each = [features | SENDS, features | SENDS, features | SENDS, features | TAKES, features | TAKES]
    sent = SUPER._replace(payload=b"short", tags=tags)
    asks = NET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, sent.start, sent.offset, 0)
    with vlan_hub(*ports, features=each) as h:
        h.guests[0].driver.send(sent.frame, asks)
        h.settle()
        for port in range(1, 5):
            whole = sent._replace(tags=tag(10) if port in (2, 4) else b"")
            asked = (NEEDS_CSUM, 0, 0, 0, whole.start, whole.offset)
            (got,) = h.arrived(port)
            header = NET_HEADER.unpack(h.guests[port].driver.received_header)[:6]
            assert header == (asked if port > 2 else (0, 0, 0, 0, 0, 0))
            assert finished(got, header) == finished(whole.frame, asked)


@formats
@pytest.mark.parametrize("start", [0, 13, 14, 17])
def test_a_checksum_must_not_be_filled_in_where_the_tag_is(features: int, start: int) -> None:
    """A guest chooses what the sum is: it would choose the VLAN, or the address that its frame comes from."""
    tags = b"" if start < 14 else tag(10)
    with vlan_hub(trunk(10, native=20), trunk(10, 20), access(10), features=features | SENDS) as h:
        header = NET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, start, 14 - min(start, 14), 0)
        assert h.send(0, ethernet(EVERYBODY, mac(0), tags), header) == {}
        assert h.dropped(0) == {"gso_unsupported" if start < 14 else "vlan_denied": 1}


@formats
def test_the_longest_frame_gets_a_tag_on_top(features: int) -> None:
    with vlan_hub(access(10), trunk(10), access(10), features=features | NET_F_MRG_RXBUF) as h:
        frame = ethernet(EVERYBODY, mac(0), b"", bytes(65535))
        assert h.send(0, frame) == {1: ethernet(EVERYBODY, mac(0), tag(10), bytes(65535)), 2: frame}


def test_numbers_that_no_vlan_has_are_refused() -> None:
    with vlan_hub(None, None, features=PLAIN) as h:
        for native, tagged in ((4095, None), (None, [1, 4095]), (-1, None)):
            with pytest.raises(ValueError, match="choose 0 to 4094"):
                h.bridge.set_vlans(0, native=native, tagged=tagged)
        with pytest.raises(ValueError, match="has ports 0 to 1"):
            h.bridge.set_vlans(2, native=1, tagged=None)
