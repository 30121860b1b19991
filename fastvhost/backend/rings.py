"""What a front-end said about each ring, and when that makes the ring live. vhost-user, "Ring states".

A ring has two independent states. *Enabled* is kept whether the ring runs or not. A ring is *live*, which means handed
to the data plane, from SET_VRING_KICK to GET_VRING_BASE. It is *started* from its first kick on (at once where there is
no kick file descriptor); until then its kick file descriptor is watched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fastvhost.backend.changes import Changes
from fastvhost.backend.errors import ProtocolError
from fastvhost.backend.payload import VringAddr
from fastvhost.backend.port_api import PortApi
from fastvhost.dataplane.queue_setup import QueueSetup

MAX_SIZE = 32768
"""Virtio 1.2, section 2.7."""
MAX_BASE = 0xFFFF
"""A split ring's base is one 16-bit available index; a packed ring's, two of 15 bits with their wrap counters."""
WENT_ON, LEFT_STANDING = "went on", "left standing"
PACKED_START = 1 << 15 | 1 << 31
"""The base of a packed ring that was never used: its wrap counters start at 1 (virtio 1.2, section 2.8.1)."""


@dataclass(slots=True)
class ConfiguredRing:
    """One ring as its front-end configured it. Owns its three file descriptors; -1 is none."""

    index: int
    size: int = 0
    addresses: VringAddr | None = None
    base: int | None = None
    """The value of SET_VRING_BASE, or where the ring stopped. None: neither, so it starts as a fresh ring."""
    kick: int = -1
    call: int = -1
    err: int = -1
    enabled: bool = False
    armed: bool = False
    """SET_VRING_KICK came: the ring goes live as soon as everything else is known."""
    live: bool = False
    stopping: bool = False
    """It is being stopped: its base is known once no worker uses it any more."""
    kicked: bool = False
    broken: str = ""
    """Why the data plane stopped it; empty: it did not. The ring recovers by GET_VRING_BASE or another SET_VRING_KICK.

    Until then it stays live, with its size, addresses and base: to its front-end it was never stopped, only
    GET_VRING_BASE does that, and QEMU and DPDK's virtio-user send it before they give a ring other ones.
    """
    begins: str = ""
    """How it last started, see VirtioPort.start_queue()."""
    lost: bool = False
    """The memory it lies in was removed. It goes live again when that memory is back."""
    resting: bool = False
    """Taken from the workers while it is disabled, see RingSet.rest()."""

    @property
    def running(self) -> bool:
        return self.live and not self.broken and not self.lost


class RingSet:
    """The rings of one front-end on their port. What this class changes of the port takes effect with `changes`.

    may_start: whether features and memory are known, without which no ring can run. packed: whether RING_PACKED was
    negotiated, None before features are known.
    """

    def __init__(
        self, port: PortApi, changes: Changes, may_start: Callable[[], bool], packed: Callable[[], bool | None]
    ) -> None:
        self._port = port
        self._changes = changes
        self._may_start = may_start
        self._packed = packed
        self._rings = tuple(ConfiguredRing(index) for index in range(2 * port.queue_pairs))
        self.ran = False
        """Whether a ring of this front-end was ever live."""

    def __iter__(self) -> Iterator[ConfiguredRing]:
        return iter(self._rings)

    def __getitem__(self, index: int) -> ConfiguredRing:
        """By vring index. Raises ProtocolError beyond the last one."""
        if index >= len(self._rings):
            raise ProtocolError(f"ring {index} does not exist, there are {len(self._rings)}")
        return self._rings[index]

    def watched(self) -> list[tuple[int, int]]:
        """(kick file descriptor, ring index) of live rings whose first kick is still to come."""
        return [(ring.kick, ring.index) for ring in self._rings if ring.running and not ring.kicked and ring.kick >= 0]

    def set_size(self, index: int, size: int) -> None:
        ring = self[index]
        if not 0 < size <= MAX_SIZE or (size & (size - 1) and self._packed() is False):
            kind = "packed ring's size" if self._packed() else "power of two"
            raise ProtocolError(f"ring {index}: size {size} is no {kind} up to {MAX_SIZE}")
        if ring.live and size != ring.size:
            self._leave(ring, f"its size cannot change from {ring.size} to {size} while it runs")
        ring.size = size
        self._start_if_complete(ring)

    def set_addresses(self, addresses: VringAddr) -> None:
        """On a live and enabled ring the log's flag and address may change, nothing else."""
        ring = self[addresses.index]
        if ring.live and ring.addresses is not None and _places(ring.addresses) != _places(addresses):
            self._leave(ring, "its addresses cannot change while it runs")
        ring.addresses = addresses
        self._start_if_complete(ring)

    def set_base(self, index: int, base: int) -> None:
        ring = self[index]
        if base > MAX_BASE and self._packed() is False:
            raise ProtocolError(f"ring {index}: base {base} is beyond a 16-bit index")
        if ring.live and (base != self._base(ring) or (not ring.enabled and (ring.broken or self.was_used(ring)))):
            self._leave(ring, "its base cannot change while it runs")
        if ring.resting:
            self._port.forget_queue(index)
        ring.base, ring.stopping = base, False

    def _leave(self, ring: ConfiguredRing, refusal: str) -> None:
        """A live ring is given another place or size.

        A disabled one stops, as by GET_VRING_BASE: its driver has left it. User-mode Linux never sends GET_VRING_BASE,
        DPDK's back-end takes another place at any time.
        """
        if ring.enabled:
            raise ProtocolError(f"ring {ring.index}: {refusal}")
        self.stop(ring.index)

    def rest(self) -> None:
        """Where all live rings are disabled: take them from the workers until they are enabled or set up anew.

        User-mode Linux has no GET_VRING_BASE: it disables rings, asks for the features and frees them at the answer.
        A broken one is left as well, and only another kick descriptor starts it.
        """
        if any(ring.live and ring.enabled for ring in self._rings):
            return
        for ring in self._rings:
            if ring.live and not ring.lost:
                self._park(ring)
                ring.resting, ring.armed = True, not ring.broken

    def was_used(self, ring: ConfiguredRing) -> bool:
        """Whether the driver put a buffer into a live ring since it started."""
        index_bits = 0x7FFF if self._packed() else 0xFFFF
        return bool((self._port.queue_state(ring.index).avail_idx ^ self._base(ring)) & index_bits)

    def stop(self, index: int) -> None:
        """GET_VRING_BASE, see base(). Call and err stay, not every front-end sends them again."""
        self._halt(self[index])
        self._port.forget_queue(index)

    def _halt(self, ring: ConfiguredRing) -> None:
        self._park(ring)
        ring.armed = ring.kicked = ring.lost = ring.resting = False
        ring.broken = ""
        ring.kick = self._closed(ring.kick)

    def base(self, index: int) -> int:
        """The base of a stopped ring, once the stop has taken effect."""
        return self._base(self[index])

    def set_kick(self, index: int, fd: int) -> None:
        """Takes ownership of fd; -1: the ring is polled.

        Starts the ring, or changes the kick file descriptor of a live one.
        """
        ring = self[index]
        self._closed(ring.kick)
        ring.kick = fd
        if ring.running:
            self._port.set_kick_fd(index, fd)
        else:
            self._park(ring)
        if ring.running:
            if fd < 0:
                self.kicked(index)
            return
        ring.lost, ring.broken, ring.resting = False, "", False
        ring.armed, ring.kicked = True, fd < 0
        self._start_if_complete(ring)

    def kicked(self, index: int) -> None:
        """A watched kick file descriptor is readable, or there is none: the ring starts."""
        ring = self[index]
        if not ring.kicked and ring.running:
            self._port.kick_queue(index)
        ring.kicked = True

    def set_call(self, index: int, fd: int) -> None:
        """Takes the file descriptor, -1 for none."""
        ring = self[index]
        self._closed(ring.call)
        ring.call = fd
        if ring.live:
            self._port.set_call_fd(index, fd)
            self._nudge(ring)

    def set_err(self, index: int, fd: int) -> None:
        """Takes the file descriptor, -1 for none."""
        ring = self[index]
        self._closed(ring.err)
        ring.err = fd

    def set_enabled(self, index: int, enabled: bool) -> None:
        ring = self[index]
        ring.enabled = enabled
        if ring.live:
            self._port.set_enabled(index, enabled)
        elif ring.resting and enabled:
            ring.resting = False
            self._start_if_complete(ring)

    def set_all_enabled(self, enabled: bool) -> None:
        for ring in self._rings:
            if ring.enabled != enabled:
                self.set_enabled(ring.index, enabled)

    def reset(self) -> None:
        """Stop every ring and forget its setup, except call and err, whether it is enabled, and its base.

        QEMU before 8.1 also resets the device when it only pauses a guest, and asks for the base after that. Where
        the driver reset the device, SET_VRING_BASE comes before the ring starts again.
        """
        for ring in self._rings:
            self.stop(ring.index)
            ring.size, ring.addresses = 0, None

    def forget(self, index: int) -> None:
        """Stop a ring and forget everything that its front-end said about it."""
        ring = self[index]
        self.stop(index)
        ring.call, ring.err = self._closed(ring.call), self._closed(ring.err)
        ring.stopping = False
        ring.size, ring.addresses, ring.base, ring.enabled = 0, None, None, False

    def broke(self, index: int, sentence: str) -> None:
        """The data plane reports a ring as broken."""
        ring = self[index]
        ring.broken = sentence
        if ring.err >= 0:
            self._port.signal_err(ring.index, ring.err)

    def memory_changed(self, lost: Iterable[int]) -> list[str]:
        """Another memory table took effect.

        `lost` rings lie in none of its regions and wait; those that lie in one again go on. Returns a sentence for each
        ring that cannot run now.
        """
        lost = set(lost)
        troubles = []
        for ring in self._rings:
            if ring.index in lost and not ring.lost:
                ring.lost = True
                troubles.append(f"ring {ring.index} lies in memory that was removed; it waits for it to come back")
                if ring.err >= 0:
                    self._port.signal_err(ring.index, ring.err)
            elif ring.lost and ring.index not in lost and self._may_start():
                self._park(ring)
                with contextlib.suppress(ProtocolError):  # not all of it is back yet
                    self._start_if_complete(ring)
                ring.lost, ring.armed = not ring.live, True
        return troubles + self.start_pending()

    def start_pending(self) -> list[str]:
        """Start the rings that waited for features or memory. Returns a sentence for each ring that is refused."""
        refusals = []
        for ring in self._rings:
            if ring.lost:
                continue
            try:
                self._start_if_complete(ring)
            except ProtocolError as error:
                refusals.append(str(error))
                if ring.err >= 0:
                    self._port.signal_err(ring.index, ring.err)
        return refusals

    def close(self) -> None:
        """Stop every ring and close every file descriptor. Idempotent."""
        for ring in self._rings:
            self._halt(ring)
            ring.call = self._closed(ring.call)
            ring.err = self._closed(ring.err)

    def _start_if_complete(self, ring: ConfiguredRing) -> None:
        if not ring.armed or ring.live or ring.resting:
            return
        if not ring.size or ring.addresses is None or not self._may_start():
            return
        try:
            ring.begins = self._port.start_queue(ring.index, self._setup(ring, ring.addresses))
        except ValueError as error:
            ring.armed = False
            raise ProtocolError(str(error)) from error
        ring.live = self.ran = True
        if ring.begins == WENT_ON:
            ring.base = self._port.queue_setup(ring.index).base
        self._nudge(ring)

    def _setup(self, ring: ConfiguredRing, addresses: VringAddr) -> QueueSetup:
        return QueueSetup(
            size=ring.size,
            desc_user_addr=addresses.desc_user_addr,
            avail_user_addr=addresses.avail_user_addr,
            used_user_addr=addresses.used_user_addr,
            base=None if ring.stopping else self._base(ring),
            call_fd=ring.call,
            kick_fd=ring.kick,
            enabled=ring.enabled,
            kicked=ring.kicked,
        )

    def _base(self, ring: ConfiguredRing) -> int:
        if ring.base is None:
            return PACKED_START if self._packed() else 0
        return ring.base

    def _park(self, ring: ConfiguredRing) -> None:
        """Take it from the data plane, so that it can start again where it was."""
        if ring.live:
            self._port.stop_queue(ring.index)
            ring.live, ring.stopping = False, True
            self._changes.then(lambda: self._stopped(ring))

    def _stopped(self, ring: ConfiguredRing) -> None:
        if ring.stopping:
            ring.base, ring.stopping = self._port.queue_setup(ring.index).base, False

    def _nudge(self, ring: ConfiguredRing) -> None:
        """Notify the driver once.

        A spurious call costs little; one lost while no back-end ran would leave the guest waiting.
        """
        self._changes.then(lambda: self._port.call(ring.index) if ring.call >= 0 else None)

    def _closed(self, fd: int) -> int:
        """Close it once no worker can use it. Returns -1."""
        self._changes.close_fd(fd)
        return -1


def _places(addresses: VringAddr) -> tuple[int, int, int]:
    return addresses.desc_user_addr, addresses.avail_user_addr, addresses.used_user_addr
