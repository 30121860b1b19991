"""The memory of an endpoint, in slots that go round between its program and a worker."""

from fastvhost.dataplane.port import Port

class EndpointSlots(Port):
    """The slots of a port whose other end is the program. See endpoint.Endpoint."""

    slots: int
    """How many buffers there are. Half of them are for each direction."""
    slot_bytes: int
    """The longest frame that fits a buffer. Longer ones drop as oversize."""
