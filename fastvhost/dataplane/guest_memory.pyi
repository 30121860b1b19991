"""Guest memory: mapped regions, and guest-physical addresses to host pointers."""

from collections.abc import Sequence

MAX_REGIONS: int
"""Regions in one table at the most: 509, as libvhost-user and Linux vhost have it."""

class MemoryRefusedError(ValueError):
    """A region or a table of regions cannot be used. The text names the region and the remedy."""

def file_system(fd: int) -> tuple[str | None, int]:
    """The name of a file's file system, where another program or machine may serve it (FUSE, NFS), and its page size.

    None: the kernel's own. That program may take for ever to answer. Raises OSError.
    """

def why_not(served_by: str) -> str:
    """Why memory on such a file system is refused: the end of a sentence."""

class Mapping:
    """One shared memory region of a front-end, mapped. vhost-user, "Memory region description".

    The file descriptor is only borrowed for the call. Raises MemoryRefusedError when the size is 0, a range wraps, or
    the file is shorter than the region or cannot be mapped. page: what file_system() said of the file, where the caller
    asked; 0: it is asked here, and refused where another program serves it (FUSE, NFS).
    """

    guest_addr: int
    bytes: int
    user_addr: int
    mmap_offset: int
    def __init__(
        self, fd: int, guest_addr: int, bytes: int, user_addr: int, mmap_offset: int, page: int = 0
    ) -> None: ...
    @property
    def faulted(self) -> bool:
        """True once an access met SIGBUS: the file behind the region became shorter."""
    @property
    def closed(self) -> bool: ...
    def close(self) -> None:
        """Unmap. Idempotent. While a port uses it (VirtioPort.set_memory): when that port lets go of it."""

class GuestMemory:
    """An immutable table of mappings, found by guest address. Does not own its mappings.

    Raises MemoryRefusedError when two regions overlap or there are more than MAX_REGIONS.
    """

    def __init__(self, mappings: Sequence[Mapping]) -> None: ...
    @property
    def mappings(self) -> tuple[Mapping, ...]: ...
    @property
    def faulted(self) -> bool:
        """True once any of its mappings met SIGBUS."""
    def guest_of_user(self, user_addr: int, bytes: int) -> int:
        """The guest address of a range of front-end virtual addresses. Raises LookupError outside of all regions."""
    def read(self, guest_addr: int, bytes: int) -> bytes:
        """A copy of up to 4096 bytes in one region. Raises LookupError outside of all regions."""
    def write(self, guest_addr: int, data: bytes) -> None:
        """Into one region. Raises LookupError outside of all regions."""
    def load_u16(self, guest_addr: int) -> int:
        """Two bytes at an even address, with acquire order. Raises LookupError, ValueError."""
    def store_u16(self, guest_addr: int, value: int) -> None:
        """Two bytes at an even address, with release order, then a full fence. Raises LookupError, ValueError."""
