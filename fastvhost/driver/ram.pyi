"""A guest's memory: one memfd, huge pages where the machine has some, mapped and populated."""

import builtins

GUEST_BASE: int
"""The guest-physical address of every GuestRam's first byte."""

class GuestRam:
    """The memory of one guest. Owns the memfd and the mapping."""

    fd: int
    guest_addr: int
    bytes: int
    huge: bool
    def __init__(self, n_bytes: int, *, huge: bool = True) -> None: ...
    @property
    def user_addr(self) -> int:
        """Where the memory lies in this process: what vhost-user calls the user address."""
    def read(self, offset: int, n_bytes: int) -> builtins.bytes:
        """Bytes of the memory, for tests."""
    def write(self, offset: int, content: builtins.bytes) -> None:
        """Put bytes into the memory, for tests."""
    def close(self) -> None:
        """Unmap and close. Idempotent. A device's memory: ValueError, GuestDevice.close does it."""
