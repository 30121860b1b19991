"""Changes which lanes workers have, and where these lead, while the workers run."""

from collections.abc import Iterable, Sequence

from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.port import Port
from fastvhost.dataplane.wire import Wire
from fastvhost.dataplane.worker import Worker

class Rewiring:
    """The changes of lanes of one forwarder. For one thread at a time; made before the workers start."""

    def __init__(self, door: Door, workers: Iterable[Worker]) -> None:
        """workers: all of this door. Raises ValueError where one of them runs already."""
    def commit(
        self,
        *,
        leave: Sequence[Wire] = (),
        join: Sequence[tuple[Wire, Sequence[Worker]]] = (),
        lead: Sequence[tuple[Wire, Port | None]] = (),
        seat: Sequence[tuple[Bridge, int, Port | None]] = (),
        wait_ms: int = 5000,
    ) -> None:
        """Put all of it into effect at once, between two bursts of the workers, or nothing of it.

        leave: no worker visits these wires any more. Frames that wait in their lanes stay with their ingress, which is
        to be closed. join: new wires, each with the worker of each of its shares. lead: these wires have another
        egress from now on, or none; frames that wait in their lanes go there. seat: who has a number of an Ethernet
        switch from now on, where it was entered before; None: nobody, and frames that wait for who had it drop as
        no_egress. Until that port is dismissed, frames for its number count as delivered, as to a null port.

        Raises WorkerStuckError where a worker does not come to the door within wait_ms, ValueError where two workers
        would deliver to one queue. Then everything is as it was.
        """
    def move(self, wire: Wire, workers: Sequence[Worker], *, wait_ms: int = 5000) -> bool:
        """Other workers have the shares of a wire from now on, one each. Nothing of it is lost or overtaken.

        Frames that wait in backlogs go along, since later ones of their flow must stay behind them. False: nothing has
        changed, since the backlogs of who gets the share have no room for them, or since several shares would move
        while something waits; try again later. Raises WorkerStuckError and ValueError as commit() does.
        """
    def set_vlans(
        self, bridge: Bridge, changes: Sequence[tuple[int, int | None, Iterable[int] | None]], wait_ms: int = 5000
    ) -> None:
        """Ports of a switch are members of other VLANs from one moment on: all of these, or none. IEEE 802.1Q, 8.8.2.

        changes: number, native and tagged, as Bridge.set_vlans takes them. What was learned at these ports is
        forgotten; at all ports, where it is the first that have VLANs. Frames of a visit under way leave as they were
        planned. Raises ValueError where there is no such port or VLAN, WorkerStuckError where a worker does not come to
        the door within wait_ms; then nothing has changed.
        """
    def dismiss(self, port: Port, *, bridge: Bridge | None = None, wait_ms: int = 5000) -> None:
        """No worker looks at this port any more; it may be closed. After its wires left, and its control thread ended.

        bridge: where its number becomes free, and its policies and addresses are forgotten.

        Raises WorkerStuckError where a worker does not come to the door within wait_ms. It is kept until one does.
        """
