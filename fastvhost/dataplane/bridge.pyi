"""The ports of an Ethernet switch, and its forwarding table."""

from collections.abc import Iterable, Sequence

from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.port import Port

class Bridge:
    """Ports that reach each other by what is learned of them. Their wires have it instead of an egress.

    Raises ValueError where the table has no room for so many ports.
    """

    table: ForwardingTable
    ports: list[Port | None]
    """By number; None: no port has it."""
    def __init__(self, ports: Sequence[Port], table: ForwardingTable) -> None: ...
    def set_vlans(self, port: int, *, native: int | None, tagged: Iterable[int] | None) -> None:
        """Make a port, by number, a member of VLANs, of those alone. IEEE 802.1Q, section 8.8.2.

        native: the VLAN of frames without a tag; they leave without one, too. None: such frames are dropped.
        tagged: the VLANs of frames with a tag. None: such frames are dropped when they arrive.
        From the first call on, ports that were never named are members of all VLANs, and their native one is 0. What
        was learned at the port is forgotten. All workers that have wires of this bridge must stand still. Raises
        ValueError where there is no such port, or a number that no VLAN has.
        """
