"""The forwarding table: what is learned, from whom, how long it answers, and who may take whose place."""

from __future__ import annotations

import pytest

from fastvhost.dataplane.forwarding_table import OUTCOMES, ForwardingTable
from fastvhost.dataplane.mac_row import MacRow
from tests.probes.mac_tables import (
    begin,
    buckets,
    contents,
    destination,
    end,
    flushes,
    hold_lock,
    learn_one,
    let_lock_go,
    link_local,
    look_up,
    set_flushes,
    source,
)

A, B, C = 0, 1, 2
"""Ports."""
FRAME = bytes.fromhex("5254000000aa5254000000bb0800")


@pytest.fixture
def table() -> ForwardingTable:
    return ForwardingTable(addresses=1024, ports=8, max_age=300)


def key(n: int, vlan: int = 0) -> int:
    """Of the n-th station."""
    return destination(bytes.fromhex("5254") + n.to_bytes(4, "big") + bytes(6), vlan)


def address(n: int) -> str:
    return (bytes.fromhex("5254") + n.to_bytes(4, "big")).hex(":")


def learn(table: ForwardingTable, n: int, port: int, vlan: int = 0) -> str:
    return learn_one(table, key(n, vlan), port)


def port_of(table: ForwardingTable, n: int, vlan: int = 0) -> int | None:
    return look_up(table, key(n, vlan))


def fill(table: ForwardingTable, port: int, first: int = 0, n: int = 6000) -> None:
    """Until both buckets of nearly every address are full."""
    table.set_limits(port, max_macs=1 << 20)
    for one in range(first, first + n):
        learn(table, one, port)


# Keys


def test_the_source_of_one_frame_is_the_destination_of_its_answer() -> None:
    answer = FRAME[6:12] + FRAME[:6] + FRAME[12:]
    for vlan in (0, 1, 4094):
        assert source(FRAME, vlan) == destination(answer, vlan)
        assert destination(FRAME, vlan) == source(answer, vlan)


def test_each_bit_of_address_and_vlan_makes_another_key() -> None:
    keys = {destination((1 << bit).to_bytes(6, "big") + bytes(6), 0) for bit in range(48)}
    keys |= {destination(bytes(12), 1 << bit) for bit in range(12)}
    assert len(keys) == 60
    assert 0 not in keys


@pytest.mark.parametrize(
    ("text", "held_back"),
    [
        ("0180c2000000", True),
        ("0180c200000f", True),
        ("0180c2000010", False),
        ("0180c2000100", False),
        ("0180c3000000", False),
        ("0080c2000000", False),
    ],
)
def test_addresses_that_a_bridge_does_not_forward(text: str, held_back: bool) -> None:
    assert link_local(destination(bytes.fromhex(text) + bytes(6), 5)) is held_back


# Learning


def test_an_address_is_found_where_it_was_learned_and_in_its_vlan_only(table: ForwardingTable) -> None:
    assert port_of(table, 1) is None
    assert learn(table, 1, B, vlan=7) == "learned"
    assert port_of(table, 1, vlan=7) == B
    assert port_of(table, 1, vlan=8) is None
    assert table.find(address(1).upper(), 7) == B


def test_an_entry_is_written_once_a_second(table: ForwardingTable) -> None:
    learn(table, 1, A)
    generation = table.generation
    assert [learn(table, 1, A) for _ in range(3)] == ["unchanged"] * 3
    table.set_tick(1)
    assert [learn(table, 1, A) for _ in range(3)] == ["refreshed", "unchanged", "unchanged"]
    assert table.generation == generation + 1  # of the tick


@pytest.mark.parametrize("text", ["ffffffffffff", "0100 5e000001", "000000000000"])
def test_no_group_address_and_no_zeros_are_learned(table: ForwardingTable, text: str) -> None:
    odd = destination(bytes.fromhex(text) + bytes(6), 0)
    assert learn_one(table, odd, A) == "no_source"
    assert look_up(table, odd) is None
    assert table.counters(A)["no_source"] == 1


def test_a_move_is_found_counted_and_ends_answers_that_were_kept(table: ForwardingTable) -> None:
    learn(table, 1, A)
    generation = table.generation
    assert learn(table, 1, B) == "moved"
    assert port_of(table, 1) == B
    assert table.generation != generation
    assert [table.counters(port)["entries"] for port in (A, B)] == [0, 1]
    assert table.counters(B)["moved"] == 1


def test_an_address_that_moves_too_often_stays_until_the_next_second_is_over(table: ForwardingTable) -> None:
    learn(table, 1, A)
    assert [learn(table, 1, port) for port in (B, A, B, A, B)] == ["moved"] * 5
    assert table.last_flapping is None
    assert [learn(table, 1, A) for _ in range(2)] == ["flapping", "frozen"]
    assert table.last_flapping == (address(1), 0, B, A)
    assert table.flapped == 1
    table.set_tick(1)
    assert learn(table, 1, B) == "unchanged"
    assert learn(table, 1, A) == "frozen"
    assert port_of(table, 1) == B
    table.set_tick(2)
    assert learn(table, 1, A) == "moved"


def test_moves_of_different_seconds_do_not_add_up(table: ForwardingTable) -> None:
    learn(table, 1, A)
    for second in range(10):
        table.set_tick(second)
        assert [learn(table, 1, port) for port in (B, A)] == ["moved"] * 2


def test_a_writer_that_was_interrupted_holds_up_neither_look_ups_nor_workers(table: ForwardingTable) -> None:
    learn(table, 1, A)
    hold_lock(table)
    assert learn(table, 2, A) == "busy"
    assert learn(table, 1, B) == "busy"
    assert port_of(table, 1) == A
    let_lock_go(table)
    assert learn(table, 2, A) == "learned"
    assert table.counters(A)["busy"] == 1


def test_what_is_refused_is_refused_without_the_lock(table: ForwardingTable) -> None:
    table.set_limits(A, max_macs=1)
    table.add(address(5), B)
    learn(table, 1, A)
    hold_lock(table)
    assert [learn(table, n, A) for n in (2, 5)] == ["at_limit", "static"]
    let_lock_go(table)


# Limits


def test_a_port_has_as_many_addresses_as_it_may_have_and_others_are_not_concerned(table: ForwardingTable) -> None:
    table.set_limits(A, max_macs=3)
    assert [learn(table, n, A) for n in range(5)] == ["learned"] * 3 + ["at_limit"] * 2
    assert learn(table, 9, B) == "learned"
    assert learn(table, 9, A) == "at_limit"
    assert learn(table, 0, B) == "moved"
    assert learn(table, 3, A) == "learned"
    assert table.counters(A)["at_limit"] == 3


def test_an_entry_that_is_too_old_is_learned_again_by_a_port_at_its_limit(table: ForwardingTable) -> None:
    table.set_limits(A, max_macs=1)
    learn(table, 1, A)
    table.set_tick(300)
    assert port_of(table, 1) is None
    assert learn(table, 1, A) == "learned"
    assert port_of(table, 1) == A
    assert table.counters(A)["entries"] == 1


def test_a_port_learns_as_many_in_a_second_as_it_may(table: ForwardingTable) -> None:
    table.set_limits(A, learn_rate=2)
    learn(table, 9, B)
    assert [learn(table, n, A) for n in (1, 2, 3, 9, 1)] == ["learned"] * 2 + ["too_fast"] * 2 + ["unchanged"]
    table.set_tick(1)
    assert learn(table, 9, A) == "moved"


# Ageing


def test_an_entry_answers_until_it_is_too_old_and_no_sweep_is_needed(table: ForwardingTable) -> None:
    table.set_tick(65500)  # ticks wrap within
    learn(table, 1, A)
    table.set_tick(65500 + 299)
    assert port_of(table, 1) == A
    generation = table.generation
    table.set_tick(65500 + 300)
    assert port_of(table, 1) is None
    assert table.generation != generation
    assert table.rows() == []


def test_a_sweep_in_slices_removes_what_is_too_old_and_counts_it_off(table: ForwardingTable) -> None:
    for n in range(100):
        learn(table, n, A)
    table.set_tick(200)
    for n in range(50):
        learn(table, n, A)
    table.set_tick(300)
    slices = [table.sweep(64) for _ in range(8)]  # 512 buckets
    assert sum(slices) == 50
    assert max(slices) < 50
    assert table.counters(A)["entries"] == 50
    assert [port_of(table, n) for n in range(100)] == [A] * 50 + [None] * 50


# Flushes


def filled_for_flushes(table: ForwardingTable) -> dict[tuple[int, int], int]:
    """Stations by number and VLAN."""
    there = {(n, vlan): port for port in (A, B) for vlan in (0, 7) for n in range(port * 10, port * 10 + 5)}
    for (n, vlan), port in there.items():
        learn(table, n, port, vlan)
    return there


@pytest.mark.parametrize("vlan", [None, 0, 7])
@pytest.mark.parametrize("port", [None, A, B])
def test_a_flush_concerns_its_port_and_vlan_and_takes_effect_before_the_sweep(
    table: ForwardingTable, port: int | None, vlan: int | None
) -> None:
    there = filled_for_flushes(table)
    generation = table.generation
    begin(table, 0xFFFF if port is None else port, 0xFFF if vlan is None else vlan)
    gone = {(n, v) for (n, v), p in there.items() if port in (None, p) and vlan in (None, v)}
    assert table.generation != generation
    for phase in ("flushed", "swept"):
        for (n, v), p in there.items():
            assert port_of(table, n, v) == (None if (n, v) in gone else p), phase
        if phase == "flushed":
            end(table)
    assert sum(table.counters(p)["entries"] for p in (A, B)) == len(there) - len(gone)


def test_what_is_learned_after_a_flush_answers_and_outlives_the_sweep(table: ForwardingTable) -> None:
    filled_for_flushes(table)
    begin(table, A, 0xFFF)
    assert learn(table, 0, A) == "learned"
    assert learn(table, 1, B) == "learned"
    end(table)
    assert (port_of(table, 0), port_of(table, 1), port_of(table, 2)) == (A, B, None)
    assert table.flush(port=A) == 1


def test_numbers_of_flushes_begin_again_without_an_entry_coming_back(table: ForwardingTable) -> None:
    set_flushes(table, 1)
    learn(table, 1, A)
    learn(table, 2, B)
    set_flushes(table, 0xFFFF)
    learn(table, 3, A)
    assert table.flush(port=A) == 2
    assert flushes(table) == 1
    assert [port_of(table, n) for n in (1, 2, 3)] == [None, B, None]
    assert table.flush(port=B) == 1
    assert port_of(table, 2) is None


# Static entries and reservations


def test_a_static_entry_is_not_moved_aged_or_flushed(table: ForwardingTable) -> None:
    learn(table, 1, A)
    generation = table.generation
    table.add(address(1), B)
    assert table.generation != generation
    assert table.counters(A)["entries"] == 0
    assert learn(table, 1, A) == "static"
    table.set_tick(5000)
    table.flush()
    table.sweep()
    assert port_of(table, 1) == B
    assert learn(table, 1, B) == "refreshed"
    assert learn(table, 1, B) == "unchanged"
    table.set_tick(5001)
    assert table.rows() == [MacRow(address(1), 0, B, 1, True)]
    generation = table.generation
    table.remove(address(1))
    assert port_of(table, 1) is None
    assert table.generation != generation


def test_a_reserved_address_is_learned_at_its_port_only_in_every_vlan(table: ForwardingTable) -> None:
    learn(table, 1, A)
    learn(table, 1, A, vlan=7)
    learn(table, 2, A)
    table.reserve(address(1), B)
    assert [port_of(table, 1), port_of(table, 1, vlan=7), port_of(table, 2)] == [None, None, A]
    assert learn(table, 1, A, vlan=9) == "reserved"
    assert learn(table, 1, B, vlan=9) == "learned"
    assert learn(table, 1, A, vlan=9) == "reserved"
    assert table.reservations() == {address(1): B}
    table.release(address(1))
    assert learn(table, 1, A, vlan=9) == "moved"


def test_all_of_a_port_goes_with_it(table: ForwardingTable) -> None:
    table.add(address(1), A)
    table.reserve(address(2), A)
    learn(table, 3, A)
    learn(table, 4, B)
    table.add(address(5), B)
    table.forget_port(A)
    assert {row.address for row in table.rows()} == {address(4), address(5)}
    assert table.reservations() == {}
    assert learn(table, 2, B) == "learned"


# A full table


def test_a_port_that_floods_a_table_evicts_its_own_entries_only(table: ForwardingTable) -> None:
    for n in range(40):
        assert learn(table, 100_000 + n, B) == "learned"
    fill(table, A, n=20_000)
    assert table.counters(A)["evicted"] > 10_000
    assert [port_of(table, 100_000 + n) for n in range(40)] == [B] * 40
    assert table.counters(B)["evicted"] == 0


def test_a_port_with_few_addresses_finds_room_in_a_full_table(table: ForwardingTable) -> None:
    fill(table, A)
    assert [learn(table, 100_000 + n, B) for n in range(100)] == ["learned"] * 100
    assert [port_of(table, 100_000 + n) for n in range(100)] == [B] * 100


def test_room_is_made_by_the_port_with_most_entries_and_by_no_other(table: ForwardingTable) -> None:
    for n in range(200):
        learn(table, 100_000 + n, B)
    fill(table, A)
    for n in range(150):
        assert learn(table, 200_000 + n, C) == "learned"
    assert [port_of(table, 100_000 + n) for n in range(200)] == [B] * 200


def test_the_oldest_entry_of_the_port_with_most_makes_room(table: ForwardingTable) -> None:
    ages: dict[int, int] = {}
    for second in range(12):
        table.set_tick(second)
        fill(table, A, first=second * 500, n=500)
        ages |= {key(n): 12 - second for n in range(second * 500, second * 500 + 500)}
    for n in range(100_000, 100_050):
        new = key(n)
        before = {one for bucket in buckets(table, new) for one in contents(table, bucket)}
        assert learn_one(table, new, B) == "learned"
        gone = [one for one in before if look_up(table, one) is None]
        if gone:  # else there was a free place
            assert [ages[one] for one in gone] == [max(ages[one] for one in before if look_up(table, one) != B)]


def test_no_port_takes_a_place_from_one_with_as_few_entries(table: ForwardingTable) -> None:
    for port in (A, B, C):
        table.set_limits(port, max_macs=1 << 20)
    for n in range(3000):  # in turns: about as many each
        learn(table, 2 * n, A)
        learn(table, 2 * n + 1, B)
    taken, before = 0, counts(table)
    for n in range(100_000, 104_000):
        learn(table, n, C)
        after = counts(table)
        for port in (A, B):
            if after[port] < before[port]:
                assert before[port] > before[C]
                taken += 1
        before = after
    assert taken > 300


def counts(table: ForwardingTable) -> list[int]:
    return [table.counters(port)["entries"] for port in (A, B, C)]


def test_static_entries_have_their_places_before_all_others_and_keep_them(table: ForwardingTable) -> None:
    fill(table, A)
    for n in range(100_000, 100_200):
        table.add(address(n), B)
    fill(table, A, first=200_000)
    assert [port_of(table, n) for n in range(100_000, 100_200)] == [B] * 200


def test_a_port_that_has_nothing_finds_no_place_among_static_entries_alone(table: ForwardingTable) -> None:
    with pytest.raises(ValueError, match="static entries have all 8 that it may take; remove one of them"):
        fill_with_static(table)
    full = next(n for n in range(100_000, 200_000) if is_full(table, n))
    assert learn(table, full, A) == "table_full"


def fill_with_static(table: ForwardingTable) -> None:
    for n in range(4096):
        table.add(address(n), B)


def is_full(table: ForwardingTable, n: int) -> bool:
    return all(len(contents(table, bucket)) == 4 for bucket in buckets(table, key(n)))


# Hashes


STEPS = (1, 256, 65536, 1 << 24, 0x0101, 3 << 20)
"""Between addresses that somebody chose."""


@pytest.mark.parametrize("step", STEPS)
def test_chosen_addresses_spread_as_random_ones_would(step: int) -> None:
    table = ForwardingTable(addresses=1024, ports=8)
    loads = [0] * 512
    for n in range(1024):
        chosen = (0x525400000000 + n * step) & 0xFFFFFFFFFFFF
        first, second = buckets(table, destination(chosen.to_bytes(6, "big") + bytes(6), 0))
        loads[first] += 1
        loads[second] += 1
    # Random ones: 4 each on average; more than 16 in any of 512 buckets once in 10,000 tries.
    assert max(loads) <= 20
    assert loads.count(0) <= 40  # 9 on average


def test_addresses_that_fill_a_bucket_of_one_table_are_spread_in_another() -> None:
    one, other = ForwardingTable(addresses=1024, ports=8), ForwardingTable(addresses=1024, ports=8)
    crowd = [key(n) for n in range(20_000) if 3 in buckets(one, key(n))]
    assert len(crowd) >= 30
    there = [bucket for one_of_them in crowd for bucket in buckets(other, one_of_them)]
    assert max(there.count(bucket) for bucket in set(there)) <= 8


@pytest.mark.parametrize("step", STEPS)
def test_a_table_has_room_for_the_addresses_it_is_made_for_whatever_its_secrets(step: int) -> None:
    evicted = 0
    for _ in range(20):
        table = ForwardingTable(addresses=1024, ports=8)
        keys = [destination((0x525400000000 + n * step).to_bytes(6, "big") + bytes(6), 0) for n in range(1024)]
        assert {learn_one(table, one, A) for one in keys} == {"learned"}
        evicted += table.counters(A)["evicted"]
    assert evicted <= 5  # with random places: 1 in 87 tables


# What control is told


@pytest.mark.parametrize("addresses", [(1024, 1024), (1025, 2048), (65536, 65536)])
def test_a_size_is_rounded_up_to_a_power_of_two(addresses: tuple[int, int]) -> None:
    assert ForwardingTable(addresses=addresses[0]).addresses == addresses[1]


def test_rows_tell_all_of_an_entry(table: ForwardingTable) -> None:
    learn(table, 1, B, vlan=4094)
    table.set_tick(17)
    assert table.rows() == [MacRow("52:54:00:00:00:01", 4094, B, 17, False)]


def test_each_outcome_has_its_name_and_all_but_the_first_are_counted(table: ForwardingTable) -> None:
    assert list(table.counters(A)) == ["entries", "evicted", *OUTCOMES[1:]]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda _: ForwardingTable(addresses=1000), "a table of 1000 addresses: choose 1024 to 1048576"),
        (lambda _: ForwardingTable(max_age=0), "an age of 0 s: choose 1 to 32767"),
        (lambda _: ForwardingTable(ports=70000), "a table for 70000 ports: choose 1 to 65535"),
        (lambda table: table.add("5254:00", 0), "'5254:00': no Ethernet address; write it like 52:54:00:12:34:56"),
        (lambda table: table.add("01:00:5e:00:00:01", 0), "a group address, or all zeros, which no station has"),
        (lambda table: table.add(address(1), 0, 4095), "VLAN 4095: choose 0 to 4094"),
        (lambda table: table.add(address(1), 8), "port 8: this table has ports 0 to 7"),
        (lambda table: table.remove(address(1)), "has no static entry; entries that were learned go with flush"),
        (lambda table: table.release(address(1)), "not reserved for any port, so there is nothing to release"),
        (lambda table: table.set_limits(0, max_macs=-1), "max_macs=-1: choose 0 to 1048576"),
        (lambda table: table.set_limits(0, learn_rate=-1), "learn_rate=-1: choose 1 to 1048576 a second, 0 for any"),
        (lambda table: table.flush(vlan=-1), "VLAN -1: choose 0 to 4094"),
    ],
)
def test_bad_input_is_told_with_its_remedy(table: ForwardingTable, what: object, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        what(table)  # type: ignore[operator]
    assert words in str(caught.value)
    assert table.rows() == []


def test_an_address_belongs_to_one_port(table: ForwardingTable) -> None:
    table.reserve(address(1), A)
    table.add(address(2), A, 7)
    for call, words in (
        (lambda: table.add(address(1), B), "reserved for port 0, so port 1 cannot have it"),
        (lambda: table.reserve(address(1), B), "reserved for port 0 already"),
        (lambda: table.add(address(2), B, 7), "in VLAN 7 is static at port 0; remove that entry first"),
        (lambda: table.reserve(address(2), B), "in VLAN 7 is static at port 0, so it cannot be reserved for port 1"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    table.add(address(1), A)
    table.reserve(address(2), A)
