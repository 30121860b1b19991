"""One process that drives vhost-net's device file: the ioctls that set up rings and memory. Linux, uapi/linux/vhost.h.

Every open file is one queue pair, with rings 0 and 1. All files of a front-end are opened by one process and share its
memory. NET_SET_BACKEND gives a kernel the tap to join a ring to; here it only means "start".
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fastvhost.backend import eventfd, features, foreign_files
from fastvhost.backend.payload import U64, SharedRegion, VringAddr, VringState
from fastvhost.backend.session_state import SessionContext, SessionState
from fastvhost.vhostcuse.caller import Caller, IoctlError
from fastvhost.vhostcuse.guest_files import GuestFiles
from fastvhost.vhostcuse.ioctls import MemoryMap, VringFile

OFFERED = features.OFFERED_FEATURES
"""No bits are added: vhost-net has no MQ, since every queue pair is a file.

Bit 27 is vhost-net's own, not virtio's: the tap has no header.
"""
EVENTFD = foreign_files.EVENTFD


class Files(Protocol):
    """GuestFiles, or a test's fake."""

    regions: list[SharedRegion]
    fds: list[int]
    identities: list[tuple[int, int]]

    def close(self) -> None: ...


class Surroundings(NamedTuple):
    """What a session needs of the host; tests have fakes."""

    files: Callable[[Caller, tuple[SharedRegion, ...]], Files] = GuestFiles


class CuseSession(SessionState):
    """The front-end that owns the device. Closes the caller's pidfd."""

    def __init__(self, caller: Caller, context: SessionContext, host: Surroundings) -> None:
        super().__init__(context, OFFERED)
        self.caller = caller
        self._host = host
        self._pairs: dict[int, int] = {}
        self._kicks: dict[int, int] = {}
        """Kick file descriptors by ring. A ring has a duplicate while it runs."""
        self._table: list[tuple[SharedRegion, tuple[int, int]]] = []

    @property
    def empty(self) -> bool:
        return not self._pairs

    def claim(self, handle: int) -> None:
        """SET_OWNER: this open file becomes the next queue pair."""
        free = set(range(self._port.queue_pairs)) - set(self._pairs.values())
        if handle in self._pairs:
            raise IoctlError(errno.EBUSY, "it has an owner already")
        if not free:
            n = self._port.queue_pairs
            raise IoctlError(errno.EBUSY, f"the port has {n} queue pairs, all taken; give the port queues={n + 1}")
        self._pairs[handle] = min(free)

    def release(self, handle: int) -> None:
        """An open file is gone, or has no owner any more: its rings stop and forget their setup."""
        pair = self._pairs.pop(handle, None)
        if pair is not None:
            for index in (2 * pair, 2 * pair + 1):
                self.rings.forget(index)
                self._set_kick(index, -1)
            self._narrative.rings(self.rings)

    def pair_of(self, handle: int) -> int | None:
        return self._pairs.get(handle)

    def close(self) -> None:
        try:
            super().close()
        finally:
            for index in list(self._kicks):
                self._set_kick(index, -1)
            self.caller.close()

    def _set_kick(self, index: int, fd: int) -> None:
        old = self._kicks.pop(index, -1)
        if old >= 0:
            foreign_files.close(old)
        if fd >= 0:
            self._kicks[index] = fd

    def _ring(self, pair: int, index: int) -> int:
        """The port's ring index for one in a file."""
        if index > 1:
            raise IoctlError(errno.ENOBUFS, f"ring {index} of a queue pair, which has 0 and 1")
        return 2 * pair + index

    # Handlers: (queue pair, payload) -> the answer

    def set_features(self, _pair: int, payload: U64) -> None:
        self._choose_features(payload.value)
        self._tell_troubles(self.rings.start_pending())

    def get_backend_features(self, _pair: int, _payload: None) -> U64:
        return U64(0)

    def set_backend_features(self, _pair: int, payload: U64) -> None:
        if payload.value:
            raise IoctlError(errno.EOPNOTSUPP, f"backend features {payload.value:#x} were not offered")

    def set_mem_table(self, _pair: int, payload: MemoryMap) -> None:
        files = self._host.files(self.caller, payload.regions)
        try:
            table = list(zip(files.regions, files.identities, strict=True))
            if table == self._table and table:
                return  # every queue pair sends the same table, and QEMU repeats it after unrelated changes
            self._memory_changed(self.memory.replace(files.regions, files.fds))
            self._table = table
        finally:
            files.close()

    def set_vring_num(self, pair: int, payload: VringState) -> None:
        self.rings.set_size(self._ring(pair, payload.index), payload.num)

    def set_vring_addr(self, pair: int, payload: VringAddr) -> None:
        index = self._ring(pair, payload.index)
        desc, used, avail = payload.desc_user_addr, payload.used_user_addr, payload.avail_user_addr
        self.rings.set_addresses(VringAddr(index, payload.flags, desc, used, avail, payload.log_guest_addr))

    def set_vring_base(self, pair: int, payload: VringState) -> None:
        self.rings.set_base(self._ring(pair, payload.index), payload.num)

    def get_vring_base(self, pair: int, payload: VringState) -> Callable[[], VringState]:
        """Unlike vhost-user's, it does not stop the ring."""
        index = self._ring(pair, payload.index)
        runs = self.rings[index].live
        self.rings.stop(index)
        if runs:
            self._start(index)
        return lambda: VringState(payload.index, self.rings.base(index))

    def set_vring_kick(self, pair: int, payload: VringFile) -> None:
        index = self._ring(pair, payload.index)
        self._set_kick(index, self._fetch("kick", payload))
        if self.rings[index].live:
            self._start(index)

    def set_vring_call(self, pair: int, payload: VringFile) -> None:
        self.rings.set_call(self._ring(pair, payload.index), self._fetch("call", payload))

    def set_vring_err(self, pair: int, payload: VringFile) -> None:
        self.rings.set_err(self._ring(pair, payload.index), self._fetch("err", payload))

    def set_busyloop_timeout(self, pair: int, payload: VringState) -> None:
        """Ignored: --idle says how long fwd polls before it sleeps."""
        self._ring(pair, payload.index)

    def net_set_backend(self, pair: int, payload: VringFile) -> None:
        """Start a ring, or with no file descriptor stop it."""
        index = self._ring(pair, payload.index)
        if payload.fd < 0:
            self.rings.stop(index)
        elif not self.rings[index].live:
            self._start(index)

    def _start(self, index: int) -> None:
        kick = self._kicks.get(index, -1)
        self.rings.set_enabled(index, True)
        self.rings.set_kick(index, foreign_files.duplicate(kick) if kick >= 0 else -1)

    def _fetch(self, what: str, payload: VringFile) -> int:
        if payload.fd < 0:
            return -1
        try:
            fd = self.caller.fetch(payload.fd, EVENTFD)
        except IoctlError as error:
            raise IoctlError(error.errno, f"ring {payload.index}: {what}: {error}") from error
        if what != "kick":  # a kick eventfd is never written, and only read in ways that do not block
            eventfd.unblock(fd)
        return fd


Handler = Callable[[CuseSession, int, Any], U64 | VringState | Callable[[], VringState] | None]
