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
    def enter(self, number: int, port: Port) -> None:
        """A port gets a number that nobody has. Lanes know it once it is seated (Rewiring); policies may be set before.

        Raises ValueError where another port has this number, or the switch has no room for it.
        """
    def leave(self, port: Port) -> None:
        """A port gives its number back, which it was forgotten at, and where no lane knows it any more."""
    def set_vlans(self, port: int, *, native: int | None, tagged: Iterable[int] | None) -> None:
        """Make a port, by number, a member of VLANs, of those alone. IEEE 802.1Q, section 8.8.2.

        native: the VLAN of frames without a tag; they leave without one, too. None: such frames are dropped.
        tagged: the VLANs of frames with a tag. None: such frames are dropped when they arrive.
        From the first call on, ports that were never named are members of all VLANs, and their native one is 0. What
        was learned at the port is forgotten. All workers that have wires of this bridge must stand still; where they
        run, Rewiring.set_vlans() does the same. Raises ValueError where there is no such port, or a number that no
        VLAN has.
        """

    # Policies of a port. Each may be set while workers run, and takes effect between two visits of a lane. ValueError
    # where the port is none of this switch.

    def guard(self, port: Port, addresses: Iterable[str]) -> None:
        """Frames from it must have one of these sources, which are reserved for it; others drop as spoofed_source.

        None: any source. What was learned of the port is forgotten. ValueError, too: an address is reserved for, or
        static at, another port; then nothing has changed.
        """
    def let_go(self, port: Port, addresses: Iterable[str]) -> None:
        """The port's reservations of these addresses end, so that another one may have them. It stays guarded."""
    def isolate(self, port: Port, group: str) -> None:
        """Ports of one group do not reach each other: isolated. Empty: it is in none."""
    def limit_macs(self, port: Port, most: int) -> None:
        """The most addresses that are learned at it."""
    def limit_floods(self, port: Port, frames: float, *, multicast: bool = False) -> None:
        """Frames from it that go to everybody, a second, and 1000 at once; others drop as storm. 0: any number.

        multicast: whether those to multicast addresses count, beside broadcast and unknown destinations.
        """
    def mirror(self, port: Port, mirror: Port | None) -> None:
        """A copy of all that it sends and receives goes to another port, which drops it as mirror_full without room.

        ValueError, too: that port is the same one, or has a mirror; or this one is a mirror.
        """
    def forget(self, port: Port) -> None:
        """All its policies, that it is a mirror of others, and what was learned of it: before it is removed."""
