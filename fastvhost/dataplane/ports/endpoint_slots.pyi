"""The memory of an endpoint, in slots that go round between its program and a worker."""

from fastvhost.dataplane.port import Port

class EndpointSlots(Port):
    """The slots of a port whose other end is the program. See endpoint.Endpoint."""

    slots: int
    """Buffers; half of them for each direction."""
    slot_bytes: int
    """Room for a frame: longer ones drop as oversize."""
