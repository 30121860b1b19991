"""Ports: where frames enter and leave. The base class every kind shares, and the kinds without a peer."""

from collections.abc import Sequence

from fastvhost.dataplane.queue_view import QueueState

class Counters:
    """A snapshot of one port's counters. rx: from the VM, tx: towards the VM, as the forwarder sees them."""

    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    rx_dropped: dict[str, int]
    """Frames taken from this port's guest and dropped on this side, by reason."""
    tx_dropped: dict[str, int]
    """Frames meant for this port and dropped because of it, by reason."""
    calls: int
    """Notifications written to the guest's call eventfds."""
    cut: int
    """Super-frames that this port got in pieces, since its peer takes none."""
    segmented: int
    copies: int
    """Those pieces; they count as frames in all else."""

class Port:
    """What every kind of port has. A kind fills in the functions of PortOps (port.pxd)."""

    name: str
    @property
    def link_up(self) -> bool: ...
    def counters(self) -> Counters: ...
    def totals(self) -> tuple[int, int, int, int, int, int]:
        """Frames and bytes from the VM, the same to the VM, and drops of both sides: a fast excerpt of the counters."""
    def rings(self) -> Sequence[QueueState]:
        """The virtqueues that a guest uses now; none where no guest is at its other end."""
    def close(self) -> None:
        """Release what the port holds. Idempotent. Only after its workers are gone."""

class NullPort(Port):
    """Takes and forgets every frame, and sends none."""

    def __init__(self, name: str) -> None: ...
