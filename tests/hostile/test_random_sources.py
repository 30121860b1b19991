"""Random source addresses at full rate at a running switch: no neighbour's address goes, and none of its frames leaks.

Port a sends frames to everybody, each from another source. Storm control lets a thousand of them a second through, as
usual; all are learned from. c and d talk to each other meanwhile, and e listens.
"""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest

from bench.guests.cores import GUEST_CORES
from bench.guests.fwd import Fwd
from bench.guests.short_dir import short_dir
from bench.guests.waits import MAX_WAIT, wait_until
from fastvhost.control import control_client
from tests.driver import Memory
from tests.frontend import FEATURES, Frontend, Guest
from tests.hostile.random_sources import EVERYBODY, PREFIX, SLOTS, RandomSources
from tests.hostile.rings import FORMATS

pytestmark = pytest.mark.alone

SECONDS, LONG = 2.0, 30.0
MOST_MACS = 1024
LIMITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "at its limit": ("", ()),
    "without a limit": (",max-macs=1048576", ("--mac-table", "1k")),
}
"""Of port a; and options."""
ROOM, BUFFER_BYTES = 4096, 128
"""Receive buffers of the neighbours: a thousand strange frames come at once, and a thousand a second."""
PAUSE, AT_ONCE = 0.005, 8
"""Seconds between two rounds of their talk, and frames each way."""
ROUNDS = 20
"""Of their talk, between two looks at the table."""
TURNS = 10
"""How often the sender must have gone round its ring, with new sources each time. Hundreds are usual."""
MOST_KNOWN = 0.1
"""The part of its frames whose source may have been known, or changed once too late."""
ADDRESSES = {name: b"\2\0\0\0\0" + name.encode() for name in "cde"}
NEW_ADDRESS = b"\2\0\0\0\1e"
PAYLOAD = bytes(38)


class Neighbour:
    """A guest with an address of its own."""

    def __init__(self, name: str, path: str, ring: str) -> None:
        self.name, self.sent, self.strange = name, 0, 0
        self.got: list[bytes] = []
        own, memory = FORMATS[ring], Memory.of(16 << 20, name=name)
        queues: list[Any] = [own.queue(memory, ROOM) for _ in range(2)]
        frontend = Frontend.connect(path, MAX_WAIT)
        self.guest = Guest(frontend, memory, *queues, features=FEATURES | own.features, polled=True)
        self.guest.net.post(ROOM, BUFFER_BYTES)

    def send(self, destination: bytes, n: int = 1, source: bytes = b"") -> None:
        """Numbered frames, all at once."""
        head = destination + (source or ADDRESSES[self.name]) + b"\x88\xb5"
        numbers = range(self.sent, self.sent + n)
        self.guest.net.send_at_once(*(head + number.to_bytes(8, "big") + PAYLOAD for number in numbers))
        self.sent += n

    def look(self) -> None:
        """Take what arrived, and only count what is strange."""
        for frame in self.guest.net.receive_all():
            if frame.startswith(EVERYBODY + PREFIX):
                self.strange += 1
            else:
                self.got.append(frame)

    def numbers_of(self, other: Neighbour) -> list[int]:
        """Of what it got, all of which the other one must have sent to it."""
        head = ADDRESSES[self.name] + ADDRESSES[other.name] + b"\x88\xb5"
        assert [frame for frame in self.got if not (frame.startswith(head) and frame.endswith(PAYLOAD))] == []
        return [int.from_bytes(frame[14:22], "big") for frame in self.got]


class Neighbours:
    """c and d, which talk, and e, which listens."""

    def __init__(self, fwd: Fwd, ring: str) -> None:
        self.fwd = fwd
        self.all = [Neighbour(name, str(fwd.directory / f"{name}.sock"), ring) for name in "cde"]
        self.c, self.d, self.e = self.all

    def introduce_themselves(self) -> None:
        for each in self.all:
            each.send(EVERYBODY)
        wait_until("each neighbour has heard of the others", MAX_WAIT, self._know_each_other)
        for each in self.all:
            each.got.clear()

    def _know_each_other(self) -> bool:
        for each in self.all:
            each.look()
        return all(len(each.got) == 2 for each in self.all)

    def talk(self) -> None:
        """A round."""
        self.c.send(ADDRESSES["d"], AT_ONCE)
        self.d.send(ADDRESSES["c"], AT_ONCE)
        for each in self.all:
            each.look()

    def last_frames_arrive(self) -> None:
        for each in self.all:
            each.guest.net.wait_sent()
        for each in self.all:
            each.look()

    def entries(self) -> dict[str, set[str]]:
        """The addresses of each in the table, as `fastvhost mac show` lists them."""
        return {each.name: entries(self.fwd, each.name) for each in self.all}

    def close(self) -> None:
        for each in self.all:
            each.guest.close()


def entries(fwd: Fwd, port: str) -> set[str]:
    found: set[str] = set()
    at = 0
    while at is not None:
        page = control_client.ask(str(fwd.control), "mac-show", port=port, **{"from": at})
        found |= {row["address"] for row in page["rows"]}
        at = page["next"]
    return found


def words(*addresses: bytes) -> set[str]:
    return {address.hex(":") for address in addresses}


def beside_random_sources(neighbours: Neighbours, ring: str, seconds: float) -> int:
    """Have the neighbours talk meanwhile. How many frames came from port a, each from another source."""
    known = {name: words(address) for name, address in ADDRESSES.items()}
    sender = RandomSources(neighbours.fwd.directory / "a.sock", ring, GUEST_CORES[0])
    try:
        sender.wait_running()
        start = time.monotonic()
        for rounds in count(1):
            neighbours.talk()
            time.sleep(PAUSE)
            if rounds % ROUNDS:
                continue
            assert neighbours.entries() == known
            if rounds == ROUNDS:  # a new address finds its place, too; frames for one's own port go nowhere
                neighbours.e.send(ADDRESSES["e"], source=NEW_ADDRESS)
                neighbours.e.guest.net.wait_sent()
                known["e"] = words(ADDRESSES["e"], NEW_ADDRESS)
            elif (passed := time.monotonic() - start) > seconds:
                if neighbours.fwd.stats()["ports"]["a"]["rx_frames"] > TURNS * SLOTS:
                    break
                assert passed < seconds + MAX_WAIT, "the sender has no time to send"
        frames, sources = sender.end()
    finally:
        sender.stop()
    assert sources >= frames
    return frames


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_sources_without_end_at_full_rate_evict_no_neighbour_and_nobody_else_gets_its_frames(
    ring: str, limit: str, pytestconfig: pytest.Config
) -> None:
    seconds = LONG if pytestconfig.getoption("--long") else SECONDS
    of_a, options = LIMITS[limit]
    with short_dir() as directory:
        ports = [f"{directory / name}.sock{of_a if name == 'a' else ''}" for name in "acde"]
        with Fwd(directory, ports, ["--forward", "learn", *options]) as fwd:
            neighbours = Neighbours(fwd, ring)
            try:
                neighbours.introduce_themselves()
                before = fwd.stats()["ports"]
                frames = beside_random_sources(neighbours, ring, seconds)
                neighbours.last_frames_arrive()
                after = fwd.stats()["ports"]
            finally:
                neighbours.close()
    print(f"{frames} frames in some {seconds:g} s; {after['a']['learning']}")
    check_the_sender(after["a"], frames, limit)
    check_the_neighbours(neighbours, before, after)


def check_the_sender(port: dict[str, Any], frames: int, limit: str) -> None:
    """Almost every one of its frames asked for an entry of its own."""
    counted = port["learning"]
    assert port["rx_frames"] == frames
    assert counted["learned"] + sum(counted["refused"].values()) > (1 - MOST_KNOWN) * frames
    if limit == "at its limit":
        assert (counted["addresses"], counted["evicted"]) == (MOST_MACS, 0)
    else:
        assert counted["addresses"] >= MOST_MACS


def check_the_neighbours(neighbours: Neighbours, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Only who it was for got a frame, and lost it only for want of room."""
    c, d, e = neighbours.all
    assert e.got == []
    for each in neighbours.all:
        was, now = before[each.name], after[each.name]
        assert (now["learning"]["evicted"], now["learning"]["moved"]) == (0, 0)
        assert now["copies"] == was["copies"], f"frames from {each.name} went to several ports"
        assert each.strange > 0
    for receiver, sender in ((c, d), (d, c)):
        numbers = receiver.numbers_of(sender)
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= sender.sent - 1 - sum(after[receiver.name]["tx_dropped"].values())
