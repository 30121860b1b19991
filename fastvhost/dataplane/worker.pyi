"""Workers: a thread that polls its wires without the GIL."""

from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import Port
from fastvhost.dataplane.wire import Wire

class Worker:
    """Polls wires, one burst each in turn, until stopped.

    `fwd` and fastvhost.attach() also look whether a guest's memory keeps a worker waiting (hold_watch). A program that
    makes workers by itself has nobody who does.
    """

    name: str
    def __init__(self, door: Door, name: str = "worker", *, idle: str = "poll", nap_us: int = 50) -> None:
        """idle: what to do without frames. "poll": go on polling. "adaptive": poll for 200 us, then naps of nap_us at
        the most, after 2 ms sleep until a driver kicks. "interrupt": sleep at once.
        """
    def add_wire(
        self,
        ingress: Port,
        egress: Port | None,
        *,
        hold: bool,
        hold_timeout_ms: int,
        shares: int = 1,
        bridge: Bridge | None = None,
    ) -> Wire:
        """Forward from ingress to egress (None: no egress, frames drop as no_egress). Before run() only.

        bridge: forward to its ports instead, as an Ethernet switch. Several workers may have wires to one bridge.

        hold: leave frames in the ingress ring while a live egress has no room, until it made no progress for
        hold_timeout_ms; False: drop at once. Of a switch: copy those for one port into a backlog of this worker, for
        hold_timeout_ms each. shares: how many workers share its queue pairs; this one has share 0.
        """
    def share_wire(self, wire: Wire, share: int) -> None:
        """Take another share of a wire that add_wire of another worker made. Before any of them runs.

        Raises ValueError where that share has a worker, where another worker delivers to that share of the egress, or
        where one of the ports was made with another door than this worker.
        """
    def prepare(self) -> str:
        """Make what drivers are notified by without waiting: an AIO context, 64 of fs.aio-max-nr. Before guests come.

        Returns a sentence where that cannot be had, or nothing: then helper threads of the ports do it. It may be left
        out; then workers share one.
        """
    def run(self) -> None:
        """Poll until stop(). Releases the GIL for its whole life; call it in a thread of its own."""
    def step(self) -> int:
        """One round over all wires. Returns the frames forwarded or dropped. For tests; not while run() runs."""
    def stop(self) -> None: ...
    def close(self) -> None:
        """Leave the door and free everything. Idempotent. To be called after its thread ended; it cannot run again."""
    @property
    def running(self) -> bool: ...
    @property
    def rounds(self) -> int:
        """Rounds of the poll loop so far. Where it does not grow, the worker is stuck."""
    @property
    def lanes(self) -> int:
        """Lanes that it visits, as of the last change."""
    @property
    def sleeps(self) -> int:
        """How often it went to sleep until a driver kicked or a change was posted."""
    @property
    def busy_rounds(self) -> int:
        """Rounds that found at least one frame."""
    @property
    def busy_seconds(self) -> float:
        """Seconds that rounds took in which frames moved, each up to the end of its last visit."""
    @property
    def loads(self) -> list[tuple[Wire, int, float]]:
        """Its wires, the share of each that it has, and the seconds of visits that moved frames, since it has it.

        Not while a change of its wires is under way.
        """
    @property
    def waiting(self) -> int:
        """Frames that were received and neither delivered nor dropped yet, because their egress has no room.

        Of the wires of which this worker has the first share, all of them, and those in backlogs of this worker. Exact
        while the worker does not run.
        """
