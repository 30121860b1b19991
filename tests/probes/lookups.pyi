"""Where guest memory is found: what the data plane asks of its table, for whole ranges."""

from fastvhost.dataplane.guest_memory import GuestMemory

def holds_user(memory: GuestMemory, user_addr: int, bytes: int) -> bool:
    """Whether a range of front-end virtual addresses lies in one region whole (a ring must)."""

def holds_guest(memory: GuestMemory, guest_addr: int, bytes: int) -> bool:
    """Whether a range of guest addresses is covered, by several adjacent regions if need be."""
