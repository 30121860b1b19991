"""Where attacks are run: a back-end, an honest stream and an honest flood beside the attacked pair, every invariant.

`Arena.run(attack)` runs one attack and checks the invariants I1 to I10, each named where it is checked, while its
connections are open and after they are closed. The attack itself checks its own result (a refusal, a broken queue, a
counted drop, a delivered frame) through its Scene.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from bench import conservation
from bench.guests.waits import MAX_WAIT
from tests.driver import Memory, Region, Timeout
from tests.frontend import FEATURES, Closed, Frontend, Guest, Refused
from tests.hostile.attack import Attack
from tests.hostile.backend import END_SECONDS, KEYS, Backend, Starter, fastvhost
from tests.hostile.flood import LEAST_SHARE, TURNS, Flood, Shares
from tests.hostile.honest import HonestStream, Progress
from tests.hostile.invariant import Broken
from tests.hostile.rings import FORMATS
from tests.hostile.scene import Scene
from tests.hostile.watch import WatchedMemory, leaks
from tests.own_time import OwnTime
from tests.worker_thread import kept_on

FRESH_SECONDS = 2.0
ANSWER_SECONDS = 1.0
TURN = 0.5
LEAST_OFFERED = 50
"""The least frames of the honest pair by which its share is measured; where the share is low, turns last longer."""
DYING = 0.2
BRIEFLY = 0.02
"""The part of its time that an attack gets where only the descriptors that it sends matter."""
LONGEST_DOUBT = 120.0
"""The most seconds for which turns are repeated while the honest pair's share is too small."""
LOG_BYTES_PER_CONNECTION = 3000
LOG_BYTES_PER_SECOND = 500
LOG_ALARMS = ("Traceback", "Sanitizer", "runtime error", "Segmentation fault", "Fatal Python error")


class Arena:
    """A back-end under attack."""

    forward = "patch"
    holds = True
    """Frames wait for room."""
    takes_tags = True
    """Frames with VLAN tags pass, as they are."""
    keys: ClassVar[Mapping[str, str]] = KEYS
    """Of each port."""

    def __init__(
        self,
        start: Starter = fastvhost,
        *,
        beside: str = "split",
        pace: int = 6000,
        max_wait: float = MAX_WAIT,
        endurance: float = 1.0,
        longest_queue: int = 32768,
        longest_round: float = 0.001,
        persistence: float = 10.0,
        rates: bool = True,
        flood: bool = True,
        pairs: int = TURNS,
        more: Sequence[str] = (),
    ) -> None:
        """`beside`: the ring format of all guests but the attacker.

        `endurance`: a factor for the duration of lasting attacks; `longest_round`: CPU seconds.
        `rates`: whether the honest pair's share of its frames is checked; without it, lasting attacks only run.
        `flood`: whether lasting attacks are measured by the flood's rate, in at least `pairs` pairs of turns. `more`:
        more options for the back-end.
        """
        self.beside = beside
        self.rates = rates
        self.pace = pace
        self.flood: Flood | None = None
        self._with_flood = flood and rates
        self._pairs = pairs
        self.in_hand: frozenset[str] = frozenset()
        """What the back-end had open of the last attack, by kind, without its connection."""
        self.runs = 0
        self.max_wait = max_wait
        self.endurance = endurance
        self.longest_queue = longest_queue
        self.longest_round = longest_round
        self.persistence = persistence
        self.spoiled = False
        self.beside_flood = False
        """Whether the current attack is measured by the flood."""
        self.shares: list[Shares] = []
        """The measurements with the flood."""
        self._log_read = 0
        self.backend, self._more = Backend(start, more, forward=self.forward, keys=self.keys), bool(more)
        self._closers: list[Callable[[], object]] = [self._remove, self.backend.stop]
        self._always = len(self._closers)
        try:
            self._populate()
        except BaseException:
            self.spoiled = True
            self.close()
            raise

    def _populate(self) -> None:
        """Start all guests but the attacker."""
        self.backend.wait_listening()
        self.victim = self.bystander("b")
        self._beside_the_victim()

    def _beside_the_victim(self) -> None:
        left, right = self.backend.path("c"), self.backend.path("d")
        self.honest = HonestStream(left, right, self.backend.directory, self.pace, self.beside)
        self._closers.append(self.honest.stop)
        self.friend = self.bystander("f")
        self.flood = None
        self.honest.wait_running()
        self._look_around()

    def _look_around(self) -> None:
        """Note what is open and runs without the attacker."""
        self._baseline = self.backend.descriptors()
        self._threads, self._notified_by_threads = self.backend.threads(), self.backend.notified_by_threads(MAX_WAIT)
        self._helpers = self.backend.helpers_descriptors()

    def start_flood(self) -> Flood:
        """Start the flood. From now on attacks, and their processes, leave its CPU to it."""
        paths = [self.backend.path(name) for name in "gh"]
        log = self.backend.directory / "flood.log"
        self.flood = Flood(paths, self.beside, self.backend.process.pid, log)
        self._closers.append(self.flood.stop)
        self.beside_flood = True
        self._look_around()
        return self.flood

    def bystander(self, port: str) -> Guest:
        """An honest guest in this process, with receive buffers."""
        memory = WatchedMemory([Region(0x10000, 2 << 20, name=f"bystander-{port}")], port)
        guest = self._boot(port, memory, receive_buffers=64, timeout=MAX_WAIT)
        self._closers.append(guest.close)
        return guest

    def _boot(self, port: str, memory: Memory, *, receive_buffers: int, timeout: float) -> Guest:
        own = FORMATS[self.beside]
        try:
            queues: list[Any] = [own.queue(memory, 256) for _ in range(2)]
            frontend = Frontend.connect(self.backend.path(port), timeout)
        except BaseException:
            memory.close()
            raise
        guest = Guest(frontend, memory, *queues, features=FEATURES | own.features)
        guest.net.post(receive_buffers)
        guest.kick()
        return guest

    def close(self) -> None:
        """Raises Broken where the frame counts of its whole life do not add up."""
        try:
            self._close_all_but(self._always)
            if not self.spoiled and self.backend.alive():
                self.check_all_frames()
        finally:
            self._close_all_but(0)

    def _close_all_but(self, n: int) -> None:
        while len(self._closers) > n:
            self._closers.pop()()

    def _remove(self) -> None:
        shutil.rmtree(self.backend.directory, ignore_errors=True)

    # One attack

    def run(self, attack: Attack, ring: str = "split") -> None:
        """Raises Broken when an invariant or the attack's own expectation does not hold."""
        self.runs += 1
        try:
            if self._once(attack, ring) < LEAST_SHARE and not attack.lasts and self.rates:
                self._compare(attack, ring)
        except BaseException:
            self.spoiled = True
            raise

    def run_briefly(self, attack: Attack, ring: str) -> None:
        """Check its own expectation, frame counts, and the invariants I1 and I4 to I8, on its own port only."""
        self.runs += 1
        scene = Scene(self, ring)
        try:
            self._act(attack, scene)
            self.check_alive()
            self._let_go_of(scene)
            self.check_quiet()
            self.check_frames()
        except BaseException:
            self.spoiled = True
            raise
        finally:
            scene.close()

    def ends_after(self, attack: Attack, ring: str) -> None:
        """Run the attack briefly once more, and end the back-end while it has everything that the attack sent."""
        scene, rates, endurance = Scene(self, ring), self.rates, self.endurance
        self.beside_flood, self.rates, self.endurance = False, False, BRIEFLY
        try:
            attack.run(scene)
            scene.ends_and_starts_again()
        except BaseException:
            self.spoiled = True
            raise
        finally:
            self.rates, self.endurance = rates, endurance
            scene.close()

    def _compare(self, attack: Attack, ring: str) -> None:
        """I2 in turns: the attack, and as much honest work on the same port."""

        def quiet() -> None:
            self.exchange("a", self.victim)
            self.wait_released()

        self.in_turns(lambda: self._once(attack, ring), quiet, TURN)

    def in_turns(
        self,
        act: Callable[[], object],
        quiet: Callable[[], object],
        seconds: float,
        *,
        attacks: int = 1,
        least: float = LEAST_SHARE,
    ) -> None:
        """I2 over a longer time: `act` again and again for a while, then `quiet`, as much harmless work, in turns.

        `attacks`: turns of attack for each quiet one, in the time that is left after the measurement by the flood.
        `least`: the part of its rate that the honest flood must keep beside a port that uses its share legally.
        """
        start = time.monotonic()
        if self.flood and self.beside_flood:
            self._beside_the_flood(self.flood, act, quiet, least)
            while time.monotonic() < start + seconds:
                act()
                self.check_alive()
        else:
            self._beside_the_stream(act, quiet, seconds, attacks)

    def _beside_the_flood(
        self, flood: Flood, act: Callable[[], object], quiet: Callable[[], object], least: float
    ) -> None:
        self.honest.pause(True)
        shares = Shares(flood, act, quiet)
        try:
            shares.measure(least, self._pairs)
        finally:
            self.honest.pause(False)
            self.shares.append(shares)

    def _beside_the_stream(
        self, act: Callable[[], object], quiet: Callable[[], object], seconds: float, attacks: int
    ) -> None:
        """The best turns are compared: other load on the machine makes some turns bad, the attack would make all of its

        own bad. Where they are, it goes on for longer, to be sure.
        """
        attacked, calm = [], []
        start = time.monotonic()
        if not self.rates:
            self._share_while(act, seconds * attacks / (attacks + 1))
            return
        while True:
            attacked += [self._share_while(act, TURN) for _ in range(attacks)]
            calm.append(self._share_while(quiet, TURN))
            kept = max(attacked) >= LEAST_SHARE * max(calm)
            doubt = 0.0 if kept else min(LONGEST_DOUBT, seconds * (self.persistence - 1))
            if time.monotonic() > start + seconds + doubt:
                break
        if not kept:
            shown = " against ".join(", ".join(f"{share:.0%}" for share in shares) for shares in (attacked, calm))
            raise Broken("I2", f"the honest pair's share of its frames in turns with and without the attack: {shown}")

    def _share_while(self, work: Callable[[], object], seconds: float) -> float:
        """The share of the honest pair's frames that arrive while `work` is done again and again."""
        end, before = time.monotonic() + seconds, self.honest.progress()
        while time.monotonic() < end:
            work()
            self.check_alive()
        return min(self.honest.progress().since(before).share, 1.0)

    def _once(self, attack: Attack, ring: str) -> float:
        self.check_alive()
        self.beside_flood = self._with_flood and attack.lasts
        if self.beside_flood and self.flood is None:
            self.start_flood()
        before, log_before, rounds = self.honest.progress(), self.backend.log_bytes(), self.rounds()
        scene = Scene(self, ring)
        try:
            self._act(attack, scene)
            self.check_during(rounds)
            share = self._share_since(before) if self.rates else 1.0
            self.in_hand = self._held()
            self.check_after(scene, log_before)
        finally:
            scene.close()
        return share

    def _act(self, attack: Attack, scene: Scene) -> None:
        try:
            with self.off_the_workers_core():
                attack.run(scene)
        except (Timeout, TimeoutError, Closed, Refused, OSError) as error:
            deadline = time.monotonic() + DYING  # a process that dies closes its sockets first, and ends a little later
            while self.backend.alive() and time.monotonic() < deadline:
                time.sleep(0.002)
            self.check_alive()
            raise Broken("reaction", f"not as it must be: {error!r}") from error

    def _share_since(self, before: Progress) -> float:
        """The honest pair's share, once it has offered enough frames."""
        deadline = time.monotonic() + self.max_wait
        while (since := self.honest.progress().since(before)).offered < LEAST_OFFERED:
            self.check_alive()
            if time.monotonic() > deadline:
                raise Broken("I2", f"the honest pair offers nothing: {since}")
            time.sleep(0.001)
        return since.share

    def _held(self) -> frozenset[str]:
        """The kinds of things it has of the attacker: descriptors but connections, mappings, files in a helper."""
        more = self.backend.descriptors() - self._baseline - Counter(["socket"])
        mapped = ["a mapping"] if self.backend.mapped("attacker") else []
        helpers = ["a helper's"] if self.backend.helpers_descriptors() > self._helpers else []
        return frozenset([*more, *mapped, *helpers])

    @contextlib.contextmanager
    def off_the_workers_core(self) -> Iterator[None]:
        """With the flood, keep the attacker and all processes that it starts off the worker's CPU."""
        with kept_on(self.flood.core if self.beside_flood and self.flood else None):
            yield

    # The invariants

    def check_alive(self) -> None:
        """I1, and I2 but for the rate."""
        if not self.backend.alive():
            raise Broken("I1", f"the process ended ({self.backend.process.poll()}): {self.backend.log()[-500:]}")
        log = self.backend.log(self._log_read)
        for alarm in LOG_ALARMS:
            if alarm in log:
                raise Broken("I1", f"the log says: {log[log.index(alarm) :][:1000]}")
        self._log_read = self.backend.log_bytes()
        if fault := self.honest.fault():
            raise Broken("I2", fault)

    def rounds(self) -> int:
        """I9: how many rounds the workers have made."""
        own = self.backend.own_time()
        try:
            workers = self.backend.statistics(self.max_wait)["workers"].values()
        except OSError as error:
            self.check_alive()
            raise Broken("I9", f"statistics: {error!r}") from error
        if (seconds := own.seconds) > ANSWER_SECONDS:
            raise Broken("I9", f"statistics took {seconds:.1f} s")
        return sum(int(worker["rounds"]) for worker in workers)

    def check_during(self, rounds: int) -> None:
        """While the attacker is still connected: I1, I2, I9, and that another port takes a new connection (I3)."""
        self.check_alive()
        own, longest = self.backend.own_time(), min(ANSWER_SECONDS, self.max_wait)
        while self.rounds() == rounds:
            if own.seconds > longest:
                raise Broken("I9", "the poll loop stands still")
            time.sleep(0.002)
        self.exchange("e", self.friend)

    def check_after(self, scene: Scene, log_before: int) -> None:
        """After the attacker disconnected."""
        self._let_go_of(scene)
        self.exchange("a", self.victim)
        self.check_quiet()
        self.check_frames()
        grown = self.backend.log_bytes() - log_before
        seconds = time.monotonic() - scene.started
        if grown > LOG_BYTES_PER_CONNECTION * (2 + scene.connections) + LOG_BYTES_PER_SECOND * seconds:
            raise Broken("I10", f"{grown} bytes of log, the last: {self.backend.log()[-300:]}")
        self.check_alive()

    def _let_go_of(self, scene: Scene) -> None:
        scene.disconnect()
        self.wait_released()
        scene.verify_memory()

    def wait_released(self) -> None:
        """I4 and I5: nothing of the attacker stays open or mapped."""
        deadline = time.monotonic() + self.max_wait
        while True:
            self.check_alive()
            open_now = self.backend.descriptors()
            more, fewer = open_now - self._baseline, self._baseline - open_now
            mapped = self.backend.mapped("attacker")
            threads = self.backend.threads() - self._threads
            helpers = max(0, self.backend.helpers_descriptors() - self._helpers)
            if threads > 0 and set(more) == {"anon_inode:[eventfd]"}:
                threads, more = self._but_for_the_honest(threads, more)
            if not (more or fewer or mapped or threads or helpers):
                return
            if time.monotonic() > deadline:
                names = f"open: {dict(more)}, gone: {dict(fewer)}, mapped: {mapped}, threads: {threads:+}"
                names += f", in its helpers: {helpers:+}"
                raise Broken("I5" if mapped and not more else "I4", f"{names}; its log: {self.backend.log()[-2000:]}")
            time.sleep(0.002)

    def _but_for_the_honest(self, threads: int, more: Counter[str]) -> tuple[int, Counter[str]]:
        """Leave out the notify threads of honest guests, which exist where this host takes long to wake a CPU.

        Each has an eventfd of its own and a duplicate of each of the two that it writes to.
        """
        honest = self.backend.notified_by_threads(self.max_wait) - self._notified_by_threads - {"a", "e"}
        return threads - len(honest), more - Counter({"anon_inode:[eventfd]": 3 * len(honest)})

    def start_again(self, number: int = signal.SIGTERM) -> None:
        """End the back-end by this signal, whatever is connected; a new one on the same paths must serve at once."""
        try:
            self.check_alive()
            self.backend.end_by(number)
            self._close_all_but(self._always)
            self._log_read = self.backend.log_bytes()
            start = OwnTime()
            self.backend.start()
            own = self.backend.own_time()
            started = start.seconds
            self.backend.wait_listening()
            self.victim = self.bystander("b")
            self.exchange("a", self.victim)
            if (seconds := started + own.seconds) > END_SECONDS:
                raise Broken("end", f"a new start on the same paths took {seconds:.1f} s to serve")
            self._beside_the_victim()
        except BaseException:
            self.spoiled = True
            raise

    def exchange(self, port: str, peer: Guest) -> None:
        """I3: this port takes a fresh honest connection, and passes a frame each way to its peer, within 2 seconds."""
        own = self.backend.own_time()
        try:
            memory = Memory.of(1 << 17, name="fresh")
            with self._boot(port, memory, receive_buffers=4, timeout=self.max_wait) as guest:
                self._pass(guest, peer, b"to the peer".ljust(60), self.max_wait)
                self._reach(peer, guest, b"from the peer".ljust(60))
        except (Timeout, TimeoutError, Closed, Refused, OSError) as error:
            self.check_alive()
            raise Broken("I3", f"a fresh connection to port {port}: {error!r}") from error
        if (seconds := own.seconds) > FRESH_SECONDS:
            raise Broken("I3", f"a fresh connection to port {port} took {seconds:.1f} s")

    def _pass(self, sender: Guest, receiver: Guest, frame: bytes, timeout: float) -> None:
        sender.net.send(frame)
        if (got := receiver.net.receive(timeout)) != frame:
            raise Broken("I7", f"a frame that nobody sent: {got[:64].hex()}")

    def _reach(self, sender: Guest, receiver: Guest, frame: bytes) -> None:
        """Send until one arrives: before the receiver's kick was seen its receiveq is stopped, and frames drop."""
        deadline = time.monotonic() + self.max_wait
        while True:
            try:
                self._pass(sender, receiver, frame, 0.05)
                return sender.net.wait_sent(self.max_wait)
            except Timeout:
                if time.monotonic() > deadline:
                    raise

    def check_quiet(self) -> None:
        """I7 and I8: no unexpected frame, and no bytes of the attacker's memory in another guest's."""
        for guest in (self.victim, self.friend):
            check_bystander(guest, self.max_wait)

    def check_frames(self) -> None:
        """Each frame that the attacked pair, or the one beside it, received was delivered or dropped, and counted."""
        for pair in ("ab", "ef"):
            try:
                conservation.check_pair(lambda: self.backend.statistics(self.max_wait), *pair, seconds=self.max_wait)
            except AssertionError as error:
                raise Broken("C", f"ports {pair[0]} and {pair[1]}: {error}") from error

    def check_all_frames(self) -> None:
        """The same for all ports, with waiting frames, after all guests have left; not where ports of a test go on."""
        if self._more:
            return
        try:
            counted = conservation.check_stats(lambda: self.backend.statistics(self.max_wait), self.max_wait)
        except AssertionError as error:
            raise Broken("C", str(error)) from error
        if not counted:
            raise Broken("C", "frames still move, and all guests are gone")

    def why(self, port: str, queue: int) -> str | None:
        """The status of a ring, in words, where the back-end tells."""
        return self.backend.broken(port, queue, self.max_wait)

    def drops(self) -> Counter[str]:
        """Drop reasons of the attacked pair, both sides added up."""
        ports = self.backend.statistics(self.max_wait)["ports"]
        counted: Counter[str] = Counter()
        for name in "ab":
            for side in ("rx_dropped", "tx_dropped"):
                counted.update(ports[name][side])
        return counted


def check_bystander(guest: Guest, max_wait: float) -> None:
    """I7 and I8 of an honest guest: it has received what it knows of and nothing else, and its memory is as it was."""
    if stray := guest.net.receive_all():
        raise Broken("I7", f"{len(stray)} frames that nobody sent, the first: {stray[0][:64].hex()}")
    if leaks(guest.memory, "attacker"):
        raise Broken("I7", "bytes that no descriptor described reached another guest")
    guest.net.wait_sent(max_wait)
    assert isinstance(guest.memory, WatchedMemory)
    buffers = [(piece.addr, piece.bytes) for chain in guest.net.receive_buffers.values() for piece in chain]
    rings: list[Any] = [*guest.queues]
    if changed := guest.memory.changed([*(place for ring in rings for place in ring.writable()), *buffers]):
        raise Broken("I8", "; ".join(changed))
