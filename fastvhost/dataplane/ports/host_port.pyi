"""Ports towards this host: the control side that their kinds share."""

from fastvhost.dataplane.port import Port

class HostPort(Port):
    """A port whose other end is this host. Made by its kinds."""

    attention_fd: int
    """An eventfd (non-blocking) that a worker writes when events() has something new."""
    def set_link(self, up: bool) -> None:
        """Whether the interface takes frames. Without, frames towards this port drop as link_down."""
    def detach(self) -> None:
        """Workers let go of what attach() gave them; the link is down. Idempotent."""
    def events(self) -> list[tuple[str, int]]:
        """What happened since the last call, each once: ("first_frame", 0), or ("error", errno) of a worker's call."""
    def count_kernel_drops(self, frames: int) -> None:
        """The kernel dropped so many frames more before they were read: kernel_overrun."""
