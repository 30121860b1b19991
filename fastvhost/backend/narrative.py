"""What the log says of a port: listening -> connected -> features -> memory -> rings -> first packet.

A pure state machine: it is told what happened, keeps lines until take() fetches them, and reads a clock. Each step is
one line; a step that has not come for MAX_WAIT is one more, with the probable cause. A wait that is normal, for a guest
that boots or a front-end that has not connected, has the level INFO, others WARNING.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fastvhost.backend import advice
from fastvhost.backend.features import STATUS_DRIVER_OK
from fastvhost.backend.logbook import Line
from fastvhost.backend.rings import LEFT_STANDING, WENT_ON, ConfiguredRing
from fastvhost.backend.sizes import readable

MAX_WAIT = 5.0
LONGEST_LOOK = 320.0
"""Seconds between two looks at what a port waits for, where nothing has happened there for long."""
MUCH = 8
"""Untouched memory is reported from 1/8 of the limit on."""
SETTLE = 0.1
"""Seconds before a change of memory or rings is logged, since each comes in several messages."""


class RingView(NamedTuple):
    """A live ring, as it is looked at when a step is missing."""

    enabled: bool
    kicks: int
    used: bool
    """Its driver has put a buffer into it."""


class View(NamedTuple):
    """A front-end, as it is looked at when a step is missing."""

    status: int | None
    """The device status that it sent; None where it sent none."""
    rings: tuple[RingView, ...]


class Narrative:
    """The lines of one port, over any number of connections."""

    def __init__(self, approach: advice.Approach, clock: Callable[[], float] = time.monotonic) -> None:
        self._approach = approach
        self._clock = clock
        self._lines: list[Line] = []
        self._reset()

    def _reset(self) -> None:
        self._connected = False
        self._spoke = False
        self._features: list[str] | None = None
        self._memory = (0, 0)
        self._memory_said = (0, 0)
        self._memory_refused = False
        self._running: tuple[int, ...] = ()
        self._running_said: tuple[int, ...] = ()
        self._sizes: set[int] = set()
        self._standing: list[int] = []
        self._went_on = False
        self._sparse_said = False
        self._packet = False
        self._reason = ""
        self._settle: float | None = None
        self._said: set[str] = set()
        self._look: float | None = None
        self._look_wait = MAX_WAIT
        self._moved()

    @property
    def state(self) -> str:
        """The last step reached."""
        if not self._connected:
            return self._approach.state
        if self._running:
            return "first packet" if self._packet else "rings"
        if self._memory[0]:
            return "memory"
        return "connected" if self._features is None else "features"

    def take(self) -> list[Line]:
        lines, self._lines = self._lines, []
        return lines

    @property
    def deadline(self) -> float | None:
        """When tick() is to be called, on the clock; None: it need not be."""
        return min((when for when in (self._settle, self._look) if when is not None), default=None)

    # What happens

    def waiting(self) -> None:
        self._reset()
        self._say(self._approach.opening)

    def unrecorded(self, reason: str) -> None:
        """The port can keep no record."""
        self._say(
            f"nothing is kept of this port beyond the end of fwd ({reason}); a guest with packed rings that runs "
            "meanwhile must load its driver anew afterwards",
        )

    def turned_down(self, bits: list[str]) -> None:
        """A front-end asked for the features and disconnected."""
        self._say(
            f"the front-end left when it knew the features; the next one is offered {' '.join(bits)} as well, which a "
            "guest may have from an earlier fwd"
        )

    def keeps(self, bits: list[str]) -> None:
        """The guest has feature bits that no new guest is offered."""
        self._say_once(advice.kept(bits), logging.WARNING)

    def cannot_connect(self, reason: str) -> None:
        self._reason = reason

    def connected(self, pid: int) -> None:
        self._reset()
        self._connected = True
        self._say(f"connected to process {pid}" if pid else "connected")

    def disconnected(self, reason: str, level: int = logging.INFO) -> None:
        self._flush()
        self._reset()
        self._say(f"disconnected: {reason}; {self.state} again", level)

    def stopped(self) -> None:
        """For good."""
        self._flush()
        self._say("stopped")

    def spoke(self) -> None:
        if not self._spoke:
            self._spoke = True
            self._moved()

    def features(self, names: list[str]) -> None:
        if names != self._features:
            self._features = names
            self._moved()
            self._say(f"features {' '.join(names) or 'none'}")

    def memory(self, regions: int, size: int) -> None:
        self._memory = (regions, size)
        self._memory_refused = False
        self._moved()
        self._settle = self._settle or self._clock() + SETTLE

    def sparse(self, untouched: int, limit: int) -> None:
        """Much of the guest's memory has no pages yet, and fwd's own memory is limited. Called once a connection."""
        if not self._sparse_said and untouched > limit // MUCH:
            self._sparse_said = True
            self._say(
                f"{readable(untouched)} of the guest's memory have no pages yet: those touched here first count "
                f"as memory of fwd, which may have {readable(limit)}, and beyond that it is killed; give the guest's "
                "memory backend prealloc=on, or fwd a MemoryMax= above the sum of its guests",
                logging.WARNING,
                "missing",
            )

    def rings(self, rings: Iterable[ConfiguredRing]) -> None:
        """The rings as they are now. Called often; most calls bring no change."""
        running = tuple(ring for ring in rings if ring.running and ring.enabled)
        indices = tuple(ring.index for ring in running)
        if indices != self._running:
            standing = [ring.index for ring in running if ring.begins == LEFT_STANDING]
            if standing and standing != self._standing:
                self.trouble(advice.left_standing(standing))
            self._standing = standing
            self._went_on = bool(running) and all(ring.begins == WENT_ON for ring in running)
            self._running, self._sizes = indices, {ring.size for ring in running}
            self._moved()
            self._settle = self._settle or self._clock() + SETTLE

    def first_packet(self) -> None:
        if not self._packet:
            self._packet = True
            self._flush()
            self._moved()
            self._say("first packet from the guest")

    def trouble(self, sentence: str) -> None:
        """A ring stopped because of an error."""
        self._flush()
        self._say(sentence, logging.WARNING, "trouble")

    def refused(self, sentence: str, *, memory: bool = False) -> None:
        """A message that was answered non-zero, or a connection that was turned away.

        memory: the message would have shared the guest's memory, so this is why the memory is missing.
        """
        self._memory_refused |= memory
        self._say(sentence, logging.WARNING, "refused")

    # What is missing

    def tick(self, view: Callable[[], View]) -> None:
        """Log changes of memory and rings that are older than SETTLE, and a step that has been missing for too long."""
        now = self._clock()
        if self._settle is not None and now >= self._settle:
            self._flush()
        if self._look is not None and now >= self._look:
            self._look = now + self._look_wait
            self._look_wait = min(2 * self._look_wait, LONGEST_LOOK)
            self._complain(view)

    def _complain(self, view: Callable[[], View]) -> None:
        if not self._connected:
            self._look = None
            self._say_once(self._approach.nobody(self._reason))
        elif not self._spoke:
            self._say_once(advice.NO_WORD, self._approach.no_word)
        elif self._features is None:
            self._say_once(advice.NO_DRIVER)
        elif not self._memory[0]:
            self._complain_of_memory(view())
        elif not self._running:
            self._say_once(advice.NOT_ENABLED if view().rings else advice.NO_RINGS)
        elif not self._packet:
            self._complain_of_silence(view())
        else:
            self._look = None

    def _complain_of_memory(self, view: View) -> None:
        # A front-end that tells the status may tell its features early, its memory comes with DRIVER_OK; one that does
        # not tells both in one go.
        if view.status is None or view.status & STATUS_DRIVER_OK:
            if not self._memory_refused:
                self._say_once(advice.MEMORY_NOT_SHARED, logging.WARNING)
        else:
            self._say_once(advice.NOT_STARTED)

    def _complain_of_silence(self, view: View) -> None:
        if self._standing:
            return  # the cause is known, and was logged already
        # One kick proves nothing, some front-ends write it themselves. A driver that kicks again has put buffers in;
        # where any of these is seen, memory is shared.
        used = any(ring.used for ring in view.rings)
        if not used and any(ring.kicks > 1 for ring in view.rings):
            self._say_once(advice.PRIVATE_MEMORY, logging.WARNING)
        elif not used:
            self._say_once(advice.NO_BUFFERS)
        else:
            self._say_once(advice.NO_PACKET)

    def _moved(self) -> None:
        self._look = self._clock() + MAX_WAIT
        self._look_wait = MAX_WAIT

    def _flush(self) -> None:
        self._settle = None
        if self._memory != self._memory_said:
            self._memory_said = self._memory
            regions, size = self._memory
            self._say(f"memory {regions} region{'s' * (regions != 1)}, {readable(size)}")
        if self._running != self._running_said:
            self._running_said = self._running
            if self._running:
                sizes = "/".join(map(str, sorted(self._sizes)))
                from_where = ", from where the fwd before left them" if self._went_on else ""
                self._say(f"rings {' '.join(map(str, self._running))} running, size {sizes}{from_where}")
            else:
                self._say("rings stopped")

    def _say_once(self, text: str, level: int = logging.INFO) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text, level, "missing")

    def _say(self, text: str, level: int = logging.INFO, about: str = "steps") -> None:
        self._lines.append(Line(level, text, about))
