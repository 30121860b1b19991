"""A port whose control queue this back-end serves. Virtio 1.2, sections 5.1.2, 5.1.6.5 and 5.1.6.5.5.

QEMU, DPDK's virtio-user and Cloud Hypervisor serve the control queue themselves and never set up its ring here.
User-mode Linux does set it up, after all the rings for frames. A session sees it as one more ring; the port in the data
plane has rings for frames only.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterable
from typing import Any

from fastvhost.backend import features
from fastvhost.backend.port_api import PortApi
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.vhostuser.control_rings import (
    Areas,
    ControlCommand,
    ControlRing,
    PackedControlRing,
    RingBrokenError,
    SplitControlRing,
)

MOST_SIZE = 1024
COMMANDS_AT_ONCE = 16
"""Commands done before messages are looked at again."""
ACK_OK, ACK_ERROR = b"\0", b"\1"
ANNOUNCE_ACK = bytes((3, 0))
"""Section 5.1.6.5.4: class, command."""
VQ_PAIRS_SET = bytes((4, 0))
"""Section 5.1.6.5.5; behind it the number of pairs, two bytes."""


class ControlledPort:
    """A PortApi in front of a port: what concerns the control queue is done here, all else by that port.

    pairs: how many queue pairs the driver may use. The ring after them is the control queue, once CTRL_VQ was
    negotiated and a front-end starts it. From then on only the pairs that the driver asked for are active, one at
    first.
    """

    def __init__(self, port: PortApi, pairs: int) -> None:
        self._port = port
        self.pairs = pairs
        self._index = -1
        """The ring index of the control queue; -1 where there is none."""
        self._features = 0
        self._memory: Any = None
        self._ring: ControlRing | None = None
        self._setup: QueueSetup | None = None
        self._base = 0
        self._call = self._kick = -1
        self._enabled = False
        self._wishes: dict[int, bool] = {}
        self._active: int | None = None
        self._broken = ""
        self._ends = False
        """The ring broke: it is stopped once the commands before are answered."""
        self._kicks: select.epoll | None = None
        self.more = False
        """Commands may be left: serve() is to be called again without a kick."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    # What a session asks of a port

    def set_features(self, bits: int) -> None:
        self._port.set_features(bits)
        self._features, self._index = bits, -1
        if features.has(bits, features.NET_F_CTRL_VQ):
            index = 2 * self.pairs if features.has(bits, features.NET_F_MQ) else 2
            self._index = index if index < 2 * self._port.queue_pairs else -1

    def set_memory(self, memory: Any) -> Iterable[int]:
        lost = tuple(self._port.set_memory(memory))
        self._memory = memory
        if self._ring is not None and self._setup is not None:
            try:
                base = self._ring.base
                self._ring = self._laid(self._setup, base)
            except (LookupError, ValueError):
                self._pause()
                lost += (self._index,)
        return lost

    def start_queue(self, index: int, setup: QueueSetup) -> str:
        if index != self._index:
            self._wishes[index] = setup.enabled
            return self._port.start_queue(index, setup._replace(enabled=self._may(index)))
        if not 0 < setup.size <= MOST_SIZE:
            raise ValueError(f"ring {index}: size {setup.size}; a control queue has up to {MOST_SIZE} entries")
        if setup.kick_fd < 0:
            raise ValueError(f"ring {index}: a control queue needs a kick descriptor, nobody polls it")
        try:
            self._ring = self._laid(setup, self._base if setup.base is None else setup.base)
        except LookupError as error:
            raise ValueError(f"ring {index} lies in no shared memory region: {error}") from error
        self._setup, self._broken = setup, ""
        self._call, self._enabled = setup.call_fd, setup.enabled
        self.set_kick_fd(index, setup.kick_fd)
        if self._active is None:
            self._set_active(1)
        self.more = True
        return ""

    def stop_queue(self, index: int) -> int:
        if index != self._index:
            return self._port.stop_queue(index)
        self._pause()
        return self._base

    def forget_queue(self, index: int) -> None:
        self._port.forget_queue(index)
        if index == self._index:
            self._set_active(None)  # a driver that starts it again has not said yet how many pairs it uses

    def queue_setup(self, index: int) -> QueueSetup:
        if index != self._index:
            return self._port.queue_setup(index)
        setup = self._setup or QueueSetup(0, 0, 0, 0, self._base)
        return setup._replace(base=self._base, call_fd=self._call, kick_fd=self._kick, enabled=self._enabled)

    def set_enabled(self, index: int, enabled: bool) -> None:
        if index == self._index:
            self._enabled, self.more = enabled, enabled
        else:
            self._wishes[index] = enabled
            self._port.set_enabled(index, self._may(index))

    def set_call_fd(self, index: int, call_fd: int) -> None:
        if index == self._index:
            self._call = call_fd
        else:
            self._port.set_call_fd(index, call_fd)

    def set_kick_fd(self, index: int, kick_fd: int) -> None:
        if index != self._index:
            self._port.set_kick_fd(index, kick_fd)
            return
        self._unwatch()
        if kick_fd >= 0:
            # Edge-triggered: the eventfd is never read, which might block where its other owners read it first.
            self._kicks = self._kicks or select.epoll()
            self._kicks.register(kick_fd, select.EPOLLIN | select.EPOLLET)
            self._kick = kick_fd

    def kick_queue(self, index: int) -> None:
        if index == self._index:
            self.more = True
        else:
            self._port.kick_queue(index)

    def call(self, index: int) -> None:
        if index != self._index:
            self._port.call(index)
        elif self._call >= 0:
            self._port.signal_err(index, self._call)  # without waiting, whatever it is

    def queue_state(self, index: int) -> Any:
        state: Any = self._port.queue_state(index)
        ring, setup = self._ring, self._setup  # asked from other threads as well
        if index != self._index or ring is None or setup is None:
            return state
        at = ring.base & 0xFFFF
        return state._replace(
            size=setup.size, live=True, started=True, enabled=self._enabled, next_avail=at, avail_idx=at
        )

    def events(self) -> Iterable[tuple[str, int, str]]:
        found = list(self._port.events())
        if self._broken:
            found.append(("broken", self._index, self._broken))
            self._broken = ""
        return found

    # The control queue

    @property
    def kicks_fd(self) -> int:
        """Readable when the driver kicked; -1 without a control queue that runs."""
        return self._kicks.fileno() if self._kicks is not None and self._ring is not None else -1

    def serve(self) -> list[ControlCommand]:
        """Do what the driver commands, as part of a change. Returns the commands to answer once it has taken effect."""
        self.more = False
        if self._kicks is not None:
            self._kicks.poll(0)
        done: list[ControlCommand] = []
        if self._ring is None or self._ends or not self._enabled:
            return done
        try:
            while len(done) < COMMANDS_AT_ONCE:
                command = self._ring.take()
                if command is None:
                    self._ring.want_kick()
                    command = self._ring.take()
                if command is None:
                    break
                done.append(command)
                self._memory.write(command.ack_addr, self._do(command.data))
        except (RingBrokenError, LookupError) as error:
            self._broken, self._ends = f"control queue: {error}", True
        self.more = len(done) == COMMANDS_AT_ONCE
        return done

    def answer(self, done: Iterable[ControlCommand]) -> None:
        """Give the commands back to the driver, and notify it."""
        if self._ring is None:
            return
        try:
            for command in done:
                self._ring.finish(command)
            if self._ring.wants_call():
                self.call(self._index)
        except LookupError:
            self._ends = True
        if self._ends:
            self._pause()

    def close(self) -> None:
        """Idempotent."""
        self._pause()
        if self._kicks is not None:
            self._kicks.close()
            self._kicks = None

    def _do(self, data: bytes) -> bytes:
        what, word = data[:2], int.from_bytes(data[2:4], "little")
        if what == ANNOUNCE_ACK:
            return ACK_OK
        if what != VQ_PAIRS_SET or len(data) < 4 or not 1 <= word <= self.pairs:
            return ACK_ERROR
        self._set_active(word)
        return ACK_OK

    def _set_active(self, pairs: int | None) -> None:
        self._active = pairs
        for index, wish in self._wishes.items():
            if wish:
                self._port.set_enabled(index, self._may(index))

    def _may(self, index: int) -> bool:
        return self._wishes.get(index, False) and (self._active is None or index // 2 < self._active)

    def _laid(self, setup: QueueSetup, base: int) -> ControlRing:
        if self._memory is None:
            raise LookupError("there is no guest memory yet")
        packed = features.has(self._features, features.F_RING_PACKED)
        size = setup.size
        ends = 4 if packed else 6 + 2 * size, 4 if packed else 6 + 8 * size
        where = (setup.desc_user_addr, setup.avail_user_addr, setup.used_user_addr)
        areas = Areas(*(self._memory.guest_of_user(at, n) for at, n in zip(where, (16 * size, *ends), strict=True)))
        if areas.desc % 16 or areas.driver % 4 * packed or areas.driver % 2 or areas.device % 4:
            raise ValueError(f"ring {self._index} is misaligned")
        if packed:
            return PackedControlRing(self._memory, size, areas, base)
        if size & (size - 1):
            raise ValueError(f"ring {self._index}: size {size} is no power of two")
        events = features.has(self._features, features.F_EVENT_IDX)
        return SplitControlRing(self._memory, size, areas, base, events=events)

    def _pause(self) -> None:
        if self._ring is not None:
            self._base, self._ring = self._ring.base, None
        self._setup, self._ends, self.more = None, False, False
        self._unwatch()

    def _unwatch(self) -> None:
        if self._kick >= 0 and self._kicks is not None:
            with contextlib.suppress(OSError):
                self._kicks.unregister(self._kick)
        self._kick = -1
