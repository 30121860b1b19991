"""The helper thread of a port: it signals where a worker would have to wait, and waits instead.

The port's control thread starts it when a bit in `Asked` is set for the first time. It runs on the control thread's
cores, so never on a worker's. It writes to duplicates of the call descriptors, which nobody else uses. A front-end can
block it in its write(2) for ever. Then it is retired: another one takes over, and the retired one closes its
descriptors and ends when its write returns. Where MOST_RETIRED are stuck and another is needed, the front-end is
disconnected.
"""

import contextvars
import fcntl
import os
import threading
import time

from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport clear_bits_u64, exchange_i32, load_acquire_u64, load_i32, replace_i32
from fastvhost.dataplane.eventfd cimport await_eventfd, drain_eventfd, wake_eventfd
from fastvhost.dataplane.notify cimport (
    ASKED_WORDS,
    BY_HELPER,
    MOST_SLOTS,
    ask_helper,
    control_signals,
    judge_anew,
    signal_and_wait,
    signal_eventfd,
    signal_socket,
)

from fastvhost.dataplane import notify
from fastvhost.dataplane.threads import Thread

MOST_RETIRED = 4
LOOK_SECONDS = 0.5
"""Seconds between two looks at a helper. One that is in the same write(2) at two looks is stuck."""

cdef enum:
    RESTING = -1
    RETIRED = -2

cdef extern from * nogil:
    """
    static inline int lowest_bit(uint64_t word) { return __builtin_ctzll(word); }
    """
    int lowest_bit(uint64_t word)


class NotificationsStuckError(RuntimeError):
    """The front-end of a port cannot be notified. The text says why and what helps."""


BY_PORT = object()


cdef class Notifier:
    """Notifies the driver of one port. For its control thread: one thread at a time may call it."""

    def __cinit__(self, maker=None, str port="", int attention_fd=-1, close_fd=None) -> None:
        if maker is not BY_PORT:
            raise TypeError("a Notifier is a port's; make a VirtioPort")
        notify.prepare()
        self.port, self.attention_fd, self.close_fd = port, attention_fd, close_fd
        self.targets, self.retired, self.trouble = {}, [], ""
        judge_anew(&self.asked)
        # A descriptor number that stays while its file is replaced, since workers may write to it at any time.
        self.asked.wake_fd = fcntl.fcntl(attention_fd, fcntl.F_DUPFD_CLOEXEC, 0)

    cdef bint set_target(self, uint32_t slot, int fd) except -1:
        """Set the descriptor of a ring; -1: the ring stops, and its bit is cleared."""
        if fd < 0:
            clear_bits_u64(&self.asked.words[slot // 64], <uint64_t>1 << slot % 64)
            self.targets.pop(slot, None)
        else:
            self.targets[slot] = fd
        if self.helper is not None:
            self.hand_over(slot, fd)
        return True

    cdef bint tell(self, uint32_t slot, int fd) except -1:
        """Signal without waiting; where that is not possible, by the helper."""
        cdef bint done = False
        with nogil:
            if load_i32(&self.asked.how) != BY_HELPER:
                done = signal_socket(fd) or signal_eventfd(control_signals(), fd)
        if not done and self.needs_helper():
            self.hand_over(slot, fd)
            ask_helper(&self.asked, slot)
        return True

    def hand_over(self, uint32_t slot, int fd) -> None:
        """Give the helper a duplicate of its own, or -1."""
        cdef Helper helper = self.helper
        if helper is None:
            return
        try:
            helper.put(slot, -1 if fd < 0 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
        except OSError as error:
            self.trouble = f"its call descriptor cannot be duplicated: {error.strerror}; raise ulimit -n"

    def needs_helper(self) -> bool:
        """Start a helper if none runs. Returns whether one runs."""
        cdef Helper helper
        if self.helper is not None:
            return True
        if len(self.retired) >= MOST_RETIRED:
            self.trouble = (
                f"its call or err descriptors block: {MOST_RETIRED} threads that notify wait in write(2) for it; "
                "restart the front-end, or give it descriptors with O_NONBLOCK"
            )
            return False
        try:
            helper = Helper(BY_PORT, self)
        except OSError as error:
            self.trouble = f"no thread can notify it: {error.strerror}; raise ulimit -n"
            return False
        self.helper, self.looked_at = helper, time.monotonic()
        for slot, fd in self.targets.items():
            self.hand_over(slot, fd)
        os.dup2(helper.wake_fd, self.asked.wake_fd, inheritable=False)  # from here on workers wake it
        try:
            in_this_context = contextvars.copy_context().run  # so that closes count for the port's own quota
            Thread(
                target=in_this_context, args=(helper.run,), name=f"notify {self.port}", daemon=True
            ).start()
        except RuntimeError as error:
            self.retire()
            self.retired.remove(helper)
            helper.run()  # here, only to close its descriptors
            self.trouble = f"no thread can notify it: {error}; raise ulimit -u or pids.max"
            return False
        return True

    def tend(self, double now) -> float | None:
        cdef Helper helper
        self.retired = [helper for helper in self.retired if not (<Helper>helper).ended]
        for helper in self.retired:
            if helper.orphaned:
                helper.release()
        if self.helper is not None:
            if now - self.looked_at >= LOOK_SECONDS:
                self.looked_at = now
                if self.helper.stuck():
                    self.retire()
        if self.helper is None and self.is_asked():
            self.needs_helper()
        if self.trouble:
            trouble, self.trouble = self.trouble, ""
            raise NotificationsStuckError(trouble)
        if self.helper is None and not self.retired:
            return None
        return (now if self.helper is None else self.looked_at) + LOOK_SECONDS

    def is_asked(self) -> bool:
        cdef int i
        cdef uint64_t bits = 0
        for i in range(ASKED_WORDS):
            bits |= load_acquire_u64(&self.asked.words[i])
        return bits != 0

    def retire(self) -> None:
        """Retire the helper: it ends when its write returns.

        Until another one runs, the control thread is woken instead.
        """
        cdef Helper helper = self.helper
        if helper is not None:
            self.helper = None
            os.dup2(self.attention_fd, self.asked.wake_fd, inheritable=False)
            helper.retire()
            self.retired.append(helper)

    cdef bint end(self) except -1:
        """The front-end is gone."""
        cdef int i
        for i in range(ASKED_WORDS):
            clear_bits_u64(&self.asked.words[i], <uint64_t>-1)
        self.targets.clear()
        self.retire()
        for helper in self.retired:
            (<Helper>helper).orphaned = True
        self.trouble = ""
        return True

    cdef bint close(self) except -1:
        """To be called after the last worker has ended. Idempotent."""
        if self.asked.wake_fd >= 0:
            self.end()
            fd, self.asked.wake_fd = self.asked.wake_fd, -1
            os.close(fd)
            self.retired = []
        return True

    @property
    def state(self) -> tuple[bool, int]:
        """Whether a helper runs, and how many retired ones have not ended."""
        return self.helper is not None, sum(not (<Helper>helper).ended for helper in self.retired)


cdef class Helper:
    """The helper thread, and the data that it shares with the control thread."""

    def __cinit__(self, maker=None, Notifier notifier=None) -> None:
        cdef int i
        if maker is not BY_PORT or notifier is None:
            raise TypeError("a Helper is a port's; make a VirtioPort")
        self.notifier, self.asked = notifier, &notifier.asked
        self.lock, self.in_doubt, self.kept = threading.Lock(), [], []
        self.at = RESTING
        for i in range(MOST_SLOTS):
            self.fds[i] = -1
        self.wake_fd = os.eventfd(1, os.EFD_CLOEXEC)  # 1: it has something to do when it starts

    # The control thread's side

    def put(self, uint32_t slot, int fd) -> None:
        """Take a descriptor, -1 for none. The old one is closed as soon as the thread cannot be using it."""
        if slot >= MOST_SLOTS:
            raise IndexError(f"slot {slot} of {MOST_SLOTS}")
        cdef int old = exchange_i32(&self.fds[slot], fd)  # before `at` is read; the thread does the reverse
        if old >= 0:
            if load_i32(&self.at) == <int32_t>slot:
                self.in_doubt.append((old, load_acquire_u64(&self.n_writes)))
            else:
                self.notifier.close_fd(old)
        self.settle()

    def settle(self) -> None:
        cdef uint64_t n = load_acquire_u64(&self.n_writes)
        done = [fd for fd, then in self.in_doubt if then != n]
        self.in_doubt = [(fd, then) for fd, then in self.in_doubt if then == n]
        for fd in done:
            self.notifier.close_fd(fd)

    cdef bint stuck(self) except -1:
        """Whether the thread is in the same write(2) as at the last call."""
        cdef uint64_t n = load_acquire_u64(&self.n_writes)
        cdef bint writes = load_i32(&self.at) >= 0
        cdef bint same = writes and self.seen_writing and n == self.seen_writes
        self.seen_writing, self.seen_writes = writes, n
        self.settle()
        return same

    def retire(self) -> None:
        """Make the thread stop using the port.

        The thread closes the descriptor that it may be using; the others are closed here.
        """
        cdef int32_t at, slot
        with self.lock:
            at = exchange_i32(&self.at, RETIRED)
            self.kept = [fd for fd, _ in self.in_doubt]
            self.in_doubt = []
            rest = []
            for slot in range(MOST_SLOTS):
                if self.fds[slot] >= 0:
                    (self.kept if slot == at else rest).append(self.fds[slot])
            if not self.ended:
                wake_eventfd(self.wake_fd)
        for fd in rest:
            self.notifier.close_fd(fd)

    def release(self) -> None:
        """Read the eventfd on which it blocks: its front-end has gone, so nobody else would."""
        cdef int number
        with self.lock:
            for fd in self.kept:
                number = fd
                with nogil:
                    drain_eventfd(number)

    # The thread

    def run(self) -> None:
        with nogil:
            self.loop()
        with self.lock:
            kept, self.kept, self.ended = self.kept, [], True
            os.close(self.wake_fd)
        for fd in kept:
            self.notifier.close_fd(fd)

    cdef void loop(self) noexcept nogil:
        while load_i32(&self.at) != RETIRED:
            if self.round() == 0:
                await_eventfd(self.wake_fd)

    cdef uint32_t round(self) noexcept nogil:
        """Signal each slot that was asked for. Returns how many."""
        cdef uint32_t found = 0
        cdef int word, bit
        cdef uint64_t bits
        for word in range(ASKED_WORDS):
            bits = load_acquire_u64(&self.asked.words[word])
            while bits:
                bit = lowest_bit(bits)
                bits &= bits - 1
                found += 1
                if not self.signal_slot(64 * word + bit):
                    return found
        return found

    cdef bint signal_slot(self, int32_t slot) noexcept nogil:
        """Signal a slot once, however often it was asked for. False: retired meanwhile."""
        cdef int fd
        if not replace_i32(&self.at, RESTING, slot):
            return False
        clear_bits_u64(&self.asked.words[slot // 64], <uint64_t>1 << slot % 64)  # later requests are signalled again
        fd = load_i32(&self.fds[slot])
        if fd >= 0:
            signal_and_wait(fd)
        self.n_writes += 1
        return replace_i32(&self.at, slot, RESTING)
