"""A port with virtqueues: the device side of a virtio-net device. What vhostuser.session drives.

A setter that stands alone, outside of `with port.change():`, waits 5 s for a worker (changing_port).
Queue index: vhost-user's vring index; even = receiveq, odd = transmitq, pair = index // 2 (virtio 1.2, section 5.1.2).
"""

import mmap
import os
from collections.abc import Callable

from fastvhost.dataplane.changing_port import ChangingPort
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.guest_memory import GuestMemory
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.queue_view import QueueState

class VirtioPort(ChangingPort):
    """A virtio-net device's rings, without a control plane. Virtio 1.2, sections 2.7 and 5.1."""

    queue_pairs: int
    attention_fd: int
    """An eventfd (non-blocking) that a worker writes when events() has something new."""
    def __init__(
        self, name: str, door: Door, queue_pairs: int = 1, *, close_fd: Callable[[int], object] = os.close
    ) -> None:
        """close_fd: how a descriptor that a front-end also holds is closed."""
    def set_link(self, up: bool) -> None:
        """Peer connected or gone. Without a peer, frames towards this port drop as link_down."""
    def set_features(self, features: int) -> None:
        """The feature bits both sides agreed on. Raises RingRefusedError while a queue is live and a bit changes."""
    def set_memory(self, memory: GuestMemory | None) -> tuple[int, ...]:
        """Put another table into effect; live rings are translated anew from the addresses they were started with.

        Returns the indices of live rings that lie in no region of it: they are broken now.
        """
    def keep_journals(self, buffer: bytearray | memoryview | mmap.mmap) -> None:
        """Where workers note each batch of a packed ring before they write it, so that another process can go on.

        buffer: packed_journal.JOURNAL_BYTES for each of the 2 * queue_pairs rings, writable, aligned to 8, in memory
        that outlives this process, as a mapped file. What stands there from before is used by start_queue(). Raises
        ValueError for one that is too small, or while a queue is live.
        """
    def forget_queue(self, index: int) -> None:
        """Clear the journal of this ring: its front-end knows the position, or lays the ring out anew."""
    def start_queue(self, index: int, setup: QueueSetup) -> str:
        """Make a queue live, and say how it starts.

        "as told": at the base of the setup. "went on": where another process left this ring, as its journal says. The
        journal is used only where the front-end names a fresh base, or the base of that other start: such a front-end
        does not know the position. "left standing": the base is a fresh one, but the ring (packed) was in use, and
        nothing tells its position.

        Raises RingRefusedError: no memory, addresses outside it or misaligned, size not a power of two up to 32768,
        base out of range (virtio 1.2, section 2.7).
        """
    def kick_queue(self, index: int) -> None:
        """The kick eventfd was seen readable. Idempotent."""
    def stop_queue(self, index: int) -> int:
        """Stop; used entries are published. Returns the base of queue_setup(). Idempotent."""
    def queue_setup(self, index: int) -> QueueSetup:
        """How a queue is set up. Its base: the next available index (GET_VRING_BASE) where it stopped last.

        Within a change that stops this queue, the base is right only after the end of the change.
        """
    def set_enabled(self, index: int, enabled: bool) -> None: ...
    def set_call_fd(self, index: int, call_fd: int) -> None:
        """Replace the borrowed call fd, -1 for none. Afterwards the old one may be closed."""
    def set_kick_fd(self, index: int, kick_fd: int) -> None:
        """Replace the borrowed kick fd, which a worker that sleeps waits for. Afterwards the old one may be closed."""
    def call(self, index: int) -> None:
        """Notify the driver of a live queue once, whatever its ring says. Never waits."""
    def signal_err(self, index: int, err_fd: int) -> None:
        """Write a queue's err descriptor, which is borrowed for as long as the call lasts. Never waits."""
    def tend(self, now: float) -> float | None:
        """Look after the helper thread, which notifies where a worker would have to wait. To be called in turn.

        now: seconds of time.monotonic(). Returns when to call again; None: when attention_fd is readable.
        Raises NotificationsStuckError: the driver cannot be notified, and the front-end must go.
        """
    @property
    def helper(self) -> tuple[bool, int]:
        """Whether a helper thread runs, and how many more are held in a write by the front-end."""
    def queue_state(self, index: int) -> QueueState: ...
    def rings(self) -> list[QueueState]: ...
    def events(self) -> list[tuple[str, int, str]]:
        """What happened since the last call, each once: (what, queue index or -1, sentence).

        what: "started" (a worker found buffers in a queue not kicked yet), "broken" (a queue was stopped),
        "slow_calls" (signalling takes long, the helper thread does it from now on), "faulted" (SIGBUS in guest memory:
        the connection must end), "first_frame" (first frame from this guest).
        """
