"""The ports of an Ethernet switch, and its forwarding table."""

from collections.abc import Sequence

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
