"""Ports that change at the door: a change from its first setter to its end. See changing_port.pxd."""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.port cimport Port

from fastvhost.dataplane.door import WorkerStuckError


class PortChange:
    """Several setters of a port as one change: put into effect at the end of the block, or not at all."""

    def __init__(self, port: ChangingPort, seconds: float) -> None:
        self._port, self._seconds = port, seconds

    def __enter__(self) -> ChangingPort:
        self._port.begin()
        return self._port

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            (<ChangingPort>self._port).settle(self._seconds)
        else:
            self._port.discard()


cdef class ChangingPort(Port):
    """A port that changes at the door. Made by its kinds."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.use_door(Door())  # a door of its own until the kind's __init__

    @property
    def doors(self) -> int:
        return self.entrance.passages

    @property
    def late(self) -> str:
        return self.entrance.who_is_late()

    def change(self, seconds: float = 5.0) -> PortChange:
        return PortChange(self, seconds)

    def begin(self) -> None:
        self.changing = True

    def commit(self, double seconds=0.0) -> bool:
        return self.take_effect(<uint64_t>(max(seconds, 0.0) * 1e9))

    def discard(self) -> None:
        self.recall()
        self.forget()
        self.changing = False

    cdef int settle(self, double seconds) except -1:
        """End a change that is not tried again: it takes effect, or is dropped with WorkerStuckError."""
        if not self.commit(seconds):
            late = self.late
            if self.recall():
                self.discard()
                raise WorkerStuckError(late)
            self.changing = False
        return 0

    cdef bint take_effect(self, uint64_t wait_ns) except -1:
        """False: a worker did not come in time, and nothing has changed yet; try again later."""
        if self.has_plan():
            if not self.entrance.pass_through(self.apply, self.written, wait_ns):
                return False
            self.has_changed()
        self.forget()
        self.changing = False
        return True

    cdef bint recall(self) except -1:
        """Withdraw the posting, so that the change can be changed or dropped. False: it has just taken effect."""
        cdef bint back = True
        if self.entrance.posted:
            with nogil:
                back = self.entrance.withdraw()
        if not back:
            self.entrance.pass_through(self.apply, self.written, 0)
            self.has_changed()
        return back

    cdef bint has_plan(self) noexcept:
        return False

    cdef int has_changed(self) except -1:
        return 0

    cdef int forget(self) except -1:
        return 0
