"""The forwarding table beside a model of it: a dictionary, and rules written down a second time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastvhost.dataplane.forwarding_table import ForwardingTable
from tests.probes.mac_tables import buckets, destination, learn_one, look_up, set_flushes

PORTS, VLANS, STATIONS = (0, 1, 2), (0, 7), range(6)
RESERVATIONS = 4095
MAX_AGE, MOST_MOVES = 5, 5
SOME_PORT, SOME_VLAN, SOME_STATION = st.sampled_from(PORTS), st.sampled_from(VLANS), st.sampled_from(STATIONS)


def address(station: int) -> str:
    return f"52:54:00:00:00:0{station}"


def key(station: int, vlan: int) -> int:
    return destination(bytes.fromhex(address(station).replace(":", "")) + bytes(6), vlan)


def table_without_neighbours() -> ForwardingTable:
    """In which no two keys may stand in the same bucket: else a new entry may take the place of one that is too old."""
    while True:
        table = ForwardingTable(addresses=1024, ports=len(PORTS), max_age=MAX_AGE)
        keys = [key(station, vlan) for station in STATIONS for vlan in (*VLANS, RESERVATIONS)]
        places = [bucket for one in keys for bucket in set(buckets(table, one))]
        if len(set(places)) == len(places):
            return table


@dataclass
class Entry:
    port: int
    tick: int
    flush: int
    static: bool = False
    moves: int = 0
    frozen: bool = False


@dataclass
class Limits:
    most: int = 1024
    rate: int = 0
    learned_in: dict[int, int] = field(default_factory=dict)
    """How many by tick."""


class Beside(RuleBasedStateMachine):
    """Every call is made of the table and of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = table_without_neighbours()
        self.entries: dict[tuple[int, int], Entry] = {}
        self.reserved: dict[int, int] = {}
        self.limits = {port: Limits() for port in PORTS}
        self.tick = self.flush = 0
        self.kept: tuple[int, dict[tuple[int, int], int]] = (0, {})

    # The model

    def alive(self, entry: Entry) -> bool:
        return entry.static or self.tick - entry.tick < MAX_AGE

    def learned(self, port: int) -> int:
        return sum(entry.port == port and not entry.static for entry in self.entries.values())

    def admission(self, station: int, port: int, own: int) -> str:
        limits = self.limits[port]
        if self.reserved.get(station, port) != port:
            return "reserved"
        if self.learned(port) - own >= limits.most:
            return "at_limit"
        if limits.rate and limits.learned_in.get(self.tick, 0) >= limits.rate:
            return "too_fast"
        return "learned"

    def learn_in_model(self, station: int, vlan: int, port: int) -> str:
        entry = self.entries.get((station, vlan))
        fresh = Entry(port, self.tick, self.flush)
        if entry is None or not self.alive(entry):
            own = int(entry is not None and entry.port == port)
            if (outcome := self.admission(station, port, own)) == "learned":
                self.entries[station, vlan] = fresh
        elif entry.port == port:
            if (entry.tick, entry.flush) == (self.tick, self.flush) or self.is_frozen(entry):
                return "unchanged"
            outcome = "refreshed"
            fresh.static, fresh.moves = entry.static, self.moves(entry)
            self.entries[station, vlan] = fresh
            return outcome
        elif entry.static:
            return "static"
        elif self.is_frozen(entry):
            return "frozen"
        elif (outcome := self.admission(station, port, 0)) == "learned":
            if self.moves(entry) >= MOST_MOVES:
                entry.frozen = True
                return "flapping"
            outcome = "moved"
            fresh.moves = self.moves(entry) + 1
            self.entries[station, vlan] = fresh
        if outcome in ("learned", "moved"):
            learned_in = self.limits[port].learned_in
            learned_in[self.tick] = learned_in.get(self.tick, 0) + 1
        return outcome

    def is_frozen(self, entry: Entry) -> bool:
        return entry.frozen and self.tick - entry.tick <= 1

    def moves(self, entry: Entry) -> int:
        return entry.moves if entry.tick == self.tick else 0

    def drop_dead(self) -> int:
        dead = [at for at, entry in self.entries.items() if not self.alive(entry)]
        for at in dead:
            del self.entries[at]
        return len(dead)

    # What happens

    @rule(station=SOME_STATION, vlan=SOME_VLAN, port=SOME_PORT)
    def learn(self, station: int, vlan: int, port: int) -> None:
        expected = self.learn_in_model(station, vlan, port)
        assert learn_one(self.table, key(station, vlan), port) == expected

    @rule(station=SOME_STATION, vlan=SOME_VLAN, ports=st.lists(SOME_PORT, min_size=5, max_size=10))
    def flap(self, station: int, vlan: int, ports: list[int]) -> None:
        for port in ports:
            self.learn(station, vlan, port)

    @rule(seconds=st.integers(1, MAX_AGE))
    def wait(self, seconds: int) -> None:
        self.tick += seconds
        self.table.set_tick(self.tick)

    @rule()
    def sweep(self) -> None:
        assert self.table.sweep() == self.drop_dead()

    @rule(port=st.none() | SOME_PORT, vlan=st.none() | SOME_VLAN, wraps=st.booleans())
    def flush_some(self, port: int | None, vlan: int | None, wraps: bool) -> None:
        if wraps:
            # Entries keep numbers that are less: as after flushes that concerned none of them.
            set_flushes(self.table, 0xFFFF)
            self.flush = 0xFFFF
        removed = self.drop_dead()
        for at, entry in list(self.entries.items()):
            if not entry.static and port in (None, entry.port) and vlan in (None, at[1]):
                del self.entries[at]
                removed += 1
        assert self.table.flush(port=port, vlan=vlan) == removed
        if self.flush == 0xFFFF:
            self.flush = 0
            for entry in self.entries.values():
                entry.flush = 0
        self.flush += 1

    @rule(station=SOME_STATION, vlan=SOME_VLAN, port=SOME_PORT)
    def add_static(self, station: int, vlan: int, port: int) -> None:
        entry = self.entries.get((station, vlan))
        if self.reserved.get(station, port) != port or (entry and entry.static and entry.port != port):
            with pytest.raises(ValueError):
                self.table.add(address(station), port, vlan)
            return
        self.table.add(address(station), port, vlan)
        self.entries[station, vlan] = Entry(port, self.tick, self.flush, static=True)

    @rule(station=SOME_STATION, vlan=SOME_VLAN)
    def remove_static(self, station: int, vlan: int) -> None:
        entry = self.entries.get((station, vlan))
        if entry and entry.static:
            self.table.remove(address(station), vlan)
            del self.entries[station, vlan]
        else:
            with pytest.raises(ValueError):
                self.table.remove(address(station), vlan)

    @rule(station=SOME_STATION, port=SOME_PORT)
    def reserve(self, station: int, port: int) -> None:
        there = {at: entry for at, entry in self.entries.items() if at[0] == station and entry.port != port}
        if self.reserved.get(station, port) != port or any(entry.static for entry in there.values()):
            with pytest.raises(ValueError):
                self.table.reserve(address(station), port)
            return
        self.table.reserve(address(station), port)
        self.reserved[station] = port
        for at in there:
            del self.entries[at]

    @rule(station=SOME_STATION)
    def release(self, station: int) -> None:
        if station in self.reserved:
            self.table.release(address(station))
            del self.reserved[station]

    @rule(port=SOME_PORT, most=st.sampled_from((0, 1, 3, 1024)), rate=st.sampled_from((0, 0, 2)))
    def limit(self, port: int, most: int, rate: int) -> None:
        self.limits[port].most, self.limits[port].rate = most, rate
        self.table.set_limits(port, max_macs=most, learn_rate=rate)

    # What holds then

    @invariant()
    def both_answer_the_same(self) -> None:
        for station in STATIONS:
            for vlan in VLANS:
                entry = self.entries.get((station, vlan))
                expected = entry.port if entry and self.alive(entry) else None
                assert look_up(self.table, key(station, vlan)) == expected

    @invariant()
    def both_count_the_same(self) -> None:
        for port in PORTS:
            assert self.table.counters(port)["entries"] == self.learned(port)
        rows = {(row.address, row.vlan): (row.port, row.age, row.static) for row in self.table.rows()}
        alive = {at: entry for at, entry in self.entries.items() if self.alive(entry)}
        assert rows == {
            (address(station), vlan): (entry.port, self.tick - entry.tick, entry.static)
            for (station, vlan), entry in alive.items()
        }

    @invariant()
    def an_answer_that_was_kept_holds_while_the_generation_does(self) -> None:
        generation, answers = self.kept
        now = {at: entry.port for at, entry in self.entries.items() if self.alive(entry)}
        if self.table.generation == generation:
            assert {at: now.get(at) for at in answers} == answers
        self.kept = self.table.generation, now


TestBeside = Beside.TestCase
TestBeside.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
