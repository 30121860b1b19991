"""What a front-end negotiated and shared, and its port: the same for every protocol.

vhostuser receives requests over a socket, vhostcuse as ioctls on a device file. The session of each is a SessionState
with a table of handlers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastvhost.backend import eventfd, features
from fastvhost.backend.changes import Changes
from fastvhost.backend.errors import ProtocolError, SessionEndError
from fastvhost.backend.memory import REAL_MEMORY, MemoryMaker, SharedMemory
from fastvhost.backend.memory_limit import own_limit
from fastvhost.backend.narrative import Narrative, RingView, View
from fastvhost.backend.port_api import PortApi
from fastvhost.backend.rings import RingSet


class SessionContext(NamedTuple):
    """What a session works with: a port, its changes, its lines in the log, and what maps memory."""

    port: PortApi
    changes: Changes
    narrative: Narrative
    memory: MemoryMaker = REAL_MEMORY


class SessionState:
    """The state of one front-end, from its first request to its end. offered: the feature bits it may choose from.

    The caller calls changes.begin() before each request and changes.settle() after it, which puts it into effect.
    """

    def __init__(self, context: SessionContext, offered: int) -> None:
        self._port, self._changes, self._narrative, memory = context
        self._offered = offered
        self.features: int | None = None
        self.mtu = 0
        self.status: int | None = None
        self.memory = SharedMemory(self._port.set_memory, self._changes, memory)
        self.rings = RingSet(self._port, self._changes, self._may_start, self._packed)

    def _may_start(self) -> bool:
        return self.features is not None and bool(self.memory.regions)

    def _packed(self) -> bool | None:
        return None if self.features is None else features.has(self.features, features.F_RING_PACKED)

    def kicked(self, index: int) -> None:
        """The kick file descriptor of a watched ring became readable."""
        self.rings.kicked(index)

    def attend(self) -> None:
        """Take the news that the workers have of the port. Raises SessionEndError where guest memory is gone."""
        for what, index, sentence in self._port.events():
            if what == "faulted":
                raise SessionEndError(sentence)
            if what == "slow_calls":
                self._narrative.trouble(sentence)
            if what == "first_frame":
                self._narrative.first_packet()
            elif what == "broken" and not self.rings[index].lost:
                self.rings.broke(index, sentence)
                self._narrative.trouble(f"ring {index} is broken and stopped: {sentence}")
        self._narrative.rings(self.rings)

    def view(self) -> View:
        """What the narrative looks at when something is missing."""
        rings = []
        for ring in self.rings:
            if ring.running:
                kicks = self._port.queue_state(ring.index).kicks
                kicks += eventfd.count(ring.kick) if ring.kick >= 0 else 0
                rings.append(RingView(ring.enabled, kicks, self.rings.was_used(ring)))
        return View(self.status, tuple(rings))

    def close(self) -> None:
        """Stop the rings, take the memory from the port and release everything with the change. Idempotent."""
        try:
            self._port.set_link(False)
        finally:
            try:
                self.rings.close()
            finally:
                self.memory.close()

    # What handlers do

    def _choose_features(self, chosen: int) -> None:
        """Set the features. Raises ProtocolError for bits that were not offered, and where they cannot change now."""
        if unknown := chosen & ~self._offered:
            raise ProtocolError(f"{' '.join(features.names(unknown))} not offered")
        try:
            self._port.set_features(chosen)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        self.features = chosen
        self._narrative.features(features.names(chosen))

    def _met(self, files: Sequence[tuple[int, int]]) -> None:
        """Compare the files of the guest's memory (device and inode) with the record.

        To be called before a ring starts.
        """

    def _memory_changed(self, lost: tuple[int, ...]) -> None:
        self._met(self.memory.files)
        self._tell_troubles(self.rings.memory_changed(lost))
        self._narrative.memory(len(self.memory.regions), self.memory.bytes)
        untouched = self.memory.untouched
        if 2 * untouched > self.memory.bytes and (limit := own_limit()) is not None:
            self._narrative.sparse(untouched, limit)

    def _tell_troubles(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self._narrative.trouble(sentence)
