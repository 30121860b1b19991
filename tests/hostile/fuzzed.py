"""A guest whose rings are fuzzed: writes a plan into a ring, offers it, and compares the result with the model."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

from tests.driver import DESC_F_INDIRECT, DESCRIPTOR, NEAR_WRAP, U16, USED_ELEMENT, Timeout
from tests.frontend import FEATURES, NET_F_MRG_RXBUF, RING_F_EVENT_IDX, RING_F_INDIRECT_DESC
from tests.hostile.invariant import Broken
from tests.hostile.ring_inputs import EGRESS, Author, Plan, Space
from tests.hostile.ring_model import HEADER_BYTES, Chain, Outcome, PackedRules, Range, SplitRules, Still, received, sent
from tests.hostile.rings import MARKS, half_base, packed_base
from tests.hostile.scene import GUEST_ADDR, Attacker, Scene, region
from tests.hostile.watch import WatchedMemory, marker
from tests.packed_driver import DESC_F_AVAIL, DESC_F_USED, PACKED_DESCRIPTOR

SPLIT_SIZES = (1, 2, 4, 8, 16, 32, 64)
PACKED_SIZES = (1, 2, 3, 5, 7, 8, 12, 16, 31, 33, 48, 64)
"""No larger than the number of the receiver's buffers: however far an index jumps, no frame waits for a buffer."""
RINGS_END = 0x4000
"""Offset of the buffers from the first address; the rings lie before."""
NEAR, NEXT_TO, FAR = GUEST_ADDR, GUEST_ADDR + 0x18000, GUEST_ADDR + 0x38000
"""Regions: two adjacent ones, and one after a hole."""
LENGTH = {NEAR: 0x18000, NEXT_TO: 0x10000, FAR: 0x10000}


class SplitFace:
    """The position of a split ring."""

    rules = SplitRules

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.start()

    def start(self) -> None:
        self.index: int = self.queue.base

    @property
    def place(self) -> tuple[int, bool]:
        return self.index, True

    @property
    def base(self) -> int:
        return self.index

    @staticmethod
    def random_base(rng: random.Random, size: int) -> int:
        return rng.choice((NEAR_WRAP, 0, 65535, rng.randrange(1 << 16), (1 << 16) - size))

    def lay(self, plan: Plan, rng: random.Random) -> tuple[int, bytes]:
        """Write everything but the available index. Returns where that is, and its new value."""
        queue, memory, size = self.queue, self.queue.memory, self.queue.size
        table = (DESCRIPTOR.pack(*plan.entries.get(i, (0, 0, 0, 0))) for i in range(size))
        memory.write(queue.descriptor_area, b"".join(table))
        for i, head in enumerate(plan.heads):
            memory.store_u16(queue.driver_area + 4 + 2 * ((self.index + i) % size), head)
        memory.store_u16(queue.driver_area, rng.choice((0, 1, 0xFFFF)))
        memory.store_u16(queue.driver_area + 4 + 2 * size, rng.choice((0, self.index, rng.randrange(1 << 16))))
        return queue.driver_area + 2, U16.pack((self.index + plan.offered) & 0xFFFF)

    def chains(self, rules: Any) -> Any:
        return rules.chains(self.queue.driver_area, self.index)

    def returned(self, done: list[tuple[Chain, int]]) -> int:
        """How many chains came back."""
        n: int = (self.queue.used_index - self.index) & 0xFFFF
        if n > len(done):
            raise Broken("C", f"{n} chains came back, not {len(done)}")
        return n

    def told(self, chain: Chain) -> tuple[int, int]:
        """The used element at this chain's place."""
        at = self.queue.device_area + 4 + 8 * (chain.at % self.queue.size)
        ident, n = self.queue.memory.unpack(USED_ELEMENT, at)
        return ident, n

    def advance(self, outcome: Outcome) -> None:
        self.index = (self.index + len(outcome.done)) & 0xFFFF

    def rings(self) -> list[Range]:
        queue = self.queue
        areas = (queue.descriptor_area, 16), (queue.driver_area, 2), (queue.device_area, 8)
        return [(at, each * queue.size + (0 if each == 16 else 6)) for at, each in areas]

    def may_write(self, done: list[tuple[Chain, int]]) -> list[Range]:  # noqa: ARG002
        return [(self.queue.device_area, 6 + 8 * self.queue.size)]


class PackedFace:
    """The same for a packed ring."""

    rules = PackedRules

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.start()

    def start(self) -> None:
        base: int = self.queue.base
        self.index, self.wrap = base & 0x7FFF, bool(base >> 15 & 1)

    @property
    def place(self) -> tuple[int, bool]:
        return self.index, self.wrap

    @property
    def base(self) -> int:
        return packed_base(self.index, self.wrap)

    @staticmethod
    def random_base(rng: random.Random, size: int) -> int:
        return half_base(rng.choice((0, size - 1, max(size - 2, 0), rng.randrange(size))), rng.random() < 0.5)

    def lay(self, plan: Plan, rng: random.Random) -> tuple[int, bytes]:
        """Write all but the flags of the first descriptor: the others as planned, or as used in the lap before."""
        memory, entries = self.queue.memory, []
        for i in range(self.queue.size):
            lap = self.wrap if i < self.index else not self.wrap
            planned = plan.entries.get(i)
            entries.append(PACKED_DESCRIPTOR.pack(*planned) if planned else bytes(14) + MARKS[lap, lap])
        first, flags = entries[self.index][:14], entries[self.index][14:]
        entries[self.index] = first + MARKS[not self.wrap, not self.wrap]
        memory.write(self.queue.descriptor_area, b"".join(entries))
        events = bytes(4), rng.randbytes(4), b"\0\0\1\0", b"\xff\x7f\2\0", b"\0\x80\2\0"
        memory.write(self.queue.driver_area, rng.choice(events))
        return self.queue.at(self.index) + 14, flags

    def chains(self, rules: Any) -> Any:
        return rules.chains(self.index, self.wrap)

    def returned(self, done: list[tuple[Chain, int]]) -> int:
        """How many chains came back, up to the first that did not. Of a batch only the first place is written."""
        shown = [at for at, (chain, _) in enumerate(done) if self.is_used(chain)]
        if not shown:
            return 0
        # The last used element may be for a batch, in order, up to the chain that it names.
        last = shown[-1]
        ident, _ = self.told(done[last][0])
        return max([last, *(at for at in range(last, len(done)) if done[at][0].ident == ident)]) + 1

    def is_used(self, chain: Chain) -> bool:
        flags: int = self.queue.memory.load_u16(self.queue.at(chain.at) + 14)
        wrap: bool = self.wrap ^ (chain.at < self.index)
        return flags & (DESC_F_AVAIL | DESC_F_USED) == (DESC_F_AVAIL | DESC_F_USED) * wrap

    def told(self, chain: Chain) -> tuple[int, int]:
        _, n, ident, _ = self.queue.memory.unpack(PACKED_DESCRIPTOR, self.queue.at(chain.at))
        return ident, n

    def advance(self, outcome: Outcome) -> None:
        self.index += outcome.slots
        if self.index >= self.queue.size:
            self.index, self.wrap = self.index - self.queue.size, not self.wrap

    def rings(self) -> list[Range]:
        queue = self.queue
        return [(queue.descriptor_area, 16 * queue.size), (queue.driver_area, 4), (queue.device_area, 4)]

    def may_write(self, done: list[tuple[Chain, int]]) -> list[Range]:
        return [(self.queue.device_area, 4), *((self.queue.at(chain.at) + 8, 8) for chain, _ in done)]


class FuzzedGuest:
    """One connection: features, regions and ring sizes of its own, and input after input."""

    def __init__(self, scene: Scene, rng: random.Random, good: bool) -> None:
        self.scene, self.rng, self.good = scene, rng, good
        self.packed, self.in_order = scene.format.packed, scene.format.in_order
        features = FEATURES & ~(RING_F_INDIRECT_DESC if rng.random() < 0.15 else 0)
        features |= NET_F_MRG_RXBUF if rng.random() < 0.5 else 0
        features |= RING_F_EVENT_IDX if rng.random() < 0.5 else 0
        own = [region(n, at) for at, n in LENGTH.items()]
        self.guest: Attacker = scene.boot(regions=own, features=features, queue_size=64, blank=True)
        assert isinstance(self.guest.memory, WatchedMemory)
        self.memory = self.guest.memory
        inside = [(NEAR + RINGS_END, LENGTH[NEAR] - RINGS_END + LENGTH[NEXT_TO]), (FAR, LENGTH[FAR])]
        for addr, n in inside:
            self.memory.write(addr, rng.randbytes(n))
        self.space = Space(rng, own, inside)
        self.indirect = bool(self.guest.frontend.features & RING_F_INDIRECT_DESC)
        self.mergeable = bool(self.guest.frontend.features & NET_F_MRG_RXBUF)
        self.faces: list[Any] = [(PackedFace if self.packed else SplitFace)(queue) for queue in self.guest.queues]
        self.expected: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        """What was tried, with how often."""
        self.sloppy = 0
        self.index, self.face, self.plan, self.outcome = 1, self.faces[1], Plan(), Outcome()
        scene.forget_drops()
        for index in range(2):
            self.restart(index)

    def step(self) -> None:
        """One input, start to end."""
        index = 1 if self.rng.random() < 0.7 else 0
        self.index, self.face = index, self.faces[index]
        self.space.start()
        queue = self.face.queue
        author = Author(
            self.rng,
            self.space,
            size=queue.size,
            packed=self.packed,
            place=self.face.place,
            writable=index == 0,
            indirect=self.indirect,
        )
        self.plan = author.write(self.good)
        for addr, data in self.plan.data:
            self.memory.write(addr, data)
        for addr, entries in self.plan.tables:
            self.memory.write(addr, b"".join(DESCRIPTOR.pack(*entry) for entry in entries))
        store = self.face.lay(self.plan, self.rng)
        self.outcome = self.model(store)
        self.told.update(self.outcome.tags())
        if self.outcome.open:
            self.counted()
        frames = self.outcome.frames if index == 0 else []
        self.memory.write(*store)
        if frames:
            self.scene.victim.net.send_at_once(*frames)
        if self.outcome.open:
            self.anything()
        else:
            self.just_that()

    def model(self, store: tuple[int, bytes]) -> Outcome:
        queue, still = self.face.queue, Still(self.memory, store)
        rules = self.face.rules(
            still, queue.size, queue.descriptor_area, writable=self.index == 0, indirect=self.indirect
        )
        chains = self.face.chains(rules)
        if self.index:
            return sent(chains, still, EGRESS - HEADER_BYTES)
        tables = [
            (addr, n)
            for addr, n, *rest in self.plan.entries.values()
            if rest[self.packed] & DESC_F_INDIRECT and n < 1 << 20
        ]
        others = [*self.faces[0].rings(), *self.faces[1].rings(), *tables]
        return received(chains, self.plan.frames, mergeable=self.mergeable, others=others)

    # The expected result

    def just_that(self) -> None:
        outcome, done = self.outcome, self.outcome.done
        arriving = list(outcome.frames) if self.index else []
        self.expected.update(outcome.drops)
        broken = n = 0
        for _ in self.scene.tries(0.00005):
            self.arrive(arriving)
            n, broken = self.face.returned(done), broken + self.heard(self.index)
            if broken > bool(outcome.broken):
                raise Broken("B", f"the queue broke {broken} times; it breaks {outcome.broken or 'no rule'!r}")
            if n == len(done) and not arriving and broken == bool(outcome.broken) and self.all_told():
                break
        else:
            told = [self.face.told(chain) for chain, _ in done]
            words = f"{n} of {len(done)} chains came back, as {told}, {len(arriving)} frames did not arrive"
            raise Broken("C", f"{words}; it broke {broken} times, the rule is {outcome.broken!r}")
        # Where ids are not unique, a batch may look longer than it is.
        if self.rng.random() < 0.1 or len({chain.ident for chain, _ in done}) < max(len(done), 1):
            self.scene.let_rounds_pass()
            self.arrive([])
        self.check_memory(outcome)
        if self.index == 0:
            self.scene.victim.net.wait_sent(self.scene.max_wait)
            self.sloppy += bool(outcome.broken)
        self.face.advance(outcome)
        if outcome.broken or self.index == 0 or self.rng.random() < 0.1:
            self.restart(self.index)

    def arrive(self, expected: list[bytes]) -> None:
        """Receive on the other side: these frames in this order."""
        net = self.scene.victim.net
        while True:
            try:
                frame = net.receive(0.0)
            except Timeout:
                return
            if not expected or frame != expected[0]:
                wanted = f"not {expected[0][:64].hex()} of {len(expected[0])} bytes" if expected else "unexpected"
                raise Broken("I7", f"a frame of {len(frame)} bytes arrived, {frame[:64].hex()}, {wanted}")
            if net.received_header != bytes(10) + b"\1\0":
                raise Broken("I7", f"a frame arrived under the header {net.received_header.hex()}")
            del expected[0]

    def heard(self, index: int) -> int:
        try:
            return os.eventfd_read(self.guest.errs[index])
        except BlockingIOError:
            return 0

    def all_told(self) -> bool:
        """Whether each chain came back at its place under its own id, or within a batch under the last one's."""
        done = self.outcome.done
        reached = {0}
        for at, (chain, n) in enumerate(done):
            if at not in reached:
                continue
            told = self.face.told(chain)
            if told == (chain.ident, n) and (not self.packed or self.face.is_used(chain)):
                reached.add(at + 1)
            if self.in_order and self.index == 1 and told[1] == 0:
                reached |= {end + 1 for end in range(at, len(done)) if done[end][0].ident == told[0]}
        return len(done) in reached

    def check_memory(self, outcome: Outcome) -> None:
        """I6: only expected places were written, and the frames are as expected."""
        written = [(addr, data) for addr, data in outcome.written if data]
        allowed = [place for face in self.faces for place in face.may_write([])]
        allowed += self.face.may_write(outcome.done) if outcome.done else []
        if changed := self.memory.changed([*allowed, *((addr, len(data)) for addr, data in written)]):
            raise Broken("I6", "; ".join(changed))
        for addr, data in written:
            if (now := self.memory.read(addr, len(data))) != data:
                raise Broken("I6", f"at {addr:#x} stands {now[:64].hex()}, not {data[:64].hex()}")
        self.accept()

    def accept(self) -> None:
        for own in self.memory.regions:
            self.memory.accept(own)

    def anything(self) -> None:
        """Where the result is open: check the invariants, and that rings work again when set up anew."""
        self.scene.let_rounds_pass()
        net = self.scene.victim.net
        if any(marker("attacker") in frame for frame in net.receive_all()):
            raise Broken("I7", "a frame brings bytes that lie in no memory region")
        for index in range(2):
            self.restart(index, anywhere=True)
        net.wait_sent(self.scene.max_wait)
        if any(marker("attacker") in frame for frame in net.receive_all()):
            raise Broken("I7", "a frame brings bytes that lie in no memory region")
        self.check_outside()
        for index in range(2):
            self.heard(index)
        self.scene.forget_drops()

    def check_outside(self) -> None:
        if changed := self.memory.changed([(own.guest_addr, own.bytes) for own in self.memory.regions]):
            raise Broken("I6", "; ".join(changed))
        self.accept()

    def restart(self, index: int, *, anywhere: bool = False) -> None:
        """Stop a queue, whose position must be the model's, and set it up with another size at another place."""
        face, frontend = self.faces[index], self.guest.frontend
        base = frontend.get_vring_base(index)
        if not anywhere and base != face.base:
            raise Broken("B", f"queue {index} stopped at {base:#x}, not at {face.base:#x}")
        if not anywhere:
            self.check_memory(Outcome())
        size = self.rng.choice(PACKED_SIZES if self.packed else SPLIT_SIZES)
        face.queue.size = size
        face.queue.reset(face.random_base(self.rng, size))
        face.start()
        if anywhere:
            self.check_outside()
        kick, call, err = -1, self.guest.calls[index], self.guest.errs[index]
        frontend.set_up_queue(index, face.queue, kick=kick, call=call, err=err)

    def counted(self) -> None:
        """Check the reasons of all drops. Whether the frame that met a bad receive chain counts twice is open."""
        new: Counter[str] = Counter()
        for _ in self.scene.tries(0.002):
            new = self.scene.new_drops()
            doubled = min(new["ring_disabled"], self.sloppy)
            if new - Counter({"ring_disabled": doubled}) == +self.expected:
                break
        else:
            raise Broken("C", f"counted {dict(new)}, not {dict(self.expected)}")
        self.scene.forget_drops()
        self.expected.clear()
        self.sloppy = 0

    def words(self) -> str:
        """The input as text, for debugging."""
        plan, queue = self.plan, self.face.queue
        fields = "addr, bytes, id, flags" if self.packed else "addr, bytes, flags, next"
        entries = "; ".join(f"{at}: {', '.join(map(hex, each))}" for at, each in plan.entries.items())
        tables = "; ".join(f"{at:#x}: {[list(map(hex, each)) for each in entries]}" for at, entries in plan.tables)
        outcome = self.outcome
        return "\n".join(
            (
                f"queue {self.index} of {queue.size} at {self.face.base:#x}, indirect {self.indirect}, mergeable "
                f"{self.mergeable}; spoiled: {', '.join(plan.words) or 'nothing'}",
                f"descriptors ({fields}): {entries}",
                f"tables: {tables}",
                f"heads {plan.heads}, the index moves by {plan.offered}; frames of {list(map(len, plan.frames))}",
                f"to come of it: {[(chain.ident, n) for chain, n in outcome.done]}, {len(outcome.frames)} frames, "
                f"{dict(outcome.drops)}, broken: {outcome.broken!r}, open: {outcome.open!r}",
            )
        )
