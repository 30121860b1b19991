"""A guest's memory: one file of memory, huge pages where the machine has some, mapped and populated."""

import builtins

GUEST_BASE: int
"""The guest-physical address of every GuestRam's first byte."""

SHARED_MEMORY: str
"""The directory of the file where memfd_create is forbidden."""

class GuestRam:
    """The memory of one guest. Owns its file, a memfd unless that is forbidden, and the mapping."""

    fd: int
    guest_addr: int
    bytes: int
    huge: bool
    def __init__(self, n_bytes: int, *, huge: bool = True) -> None:
        """Raises ValueError for a size that this machine cannot have, MemoryError where that much is not available."""
    @property
    def user_addr(self) -> int:
        """Where the memory lies in this process: what vhost-user calls the user address."""
    def read(self, offset: int, n_bytes: int) -> builtins.bytes:
        """Bytes of the memory, for tests."""
    def write(self, offset: int, content: builtins.bytes) -> None:
        """Put bytes into the memory, for tests."""
    def close(self) -> None:
        """Unmap and close. Idempotent. Raises ValueError where a device uses it: GuestDevice.close() closes that."""
