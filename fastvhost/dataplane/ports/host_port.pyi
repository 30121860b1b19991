"""Ports towards this host: the control side that their kinds share.

A setter that stands alone, outside of `with port.change():`, waits half a second for a worker (changing_port).
"""

from fastvhost.dataplane.changing_port import ChangingPort

class HostFiles:
    """What attach() gives a port, and what the port keeps with that. Made by the port."""

class HostPort(ChangingPort):
    """A port whose other end is this host. Made by its kinds."""

    attention_fd: int
    """An eventfd (non-blocking) that a worker writes when events() has something new."""
    def set_link(self, up: bool) -> None:
        """up: whether the interface takes frames. If not, frames towards this port drop as link_down."""
    def detach(self) -> None:
        """Workers let go of what attach() gave them; the link is down. Idempotent."""
    def events(self) -> list[tuple[str, int]]:
        """What happened since the last call, each once: ("first_frame", 0), or ("error", errno) of a worker's call."""
    def count_kernel_drops(self, frames: int) -> None:
        """Count this many more frames as kernel_overrun: the kernel dropped them before they were read."""
