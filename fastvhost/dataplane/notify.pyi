"""Signalling a descriptor that a front-end also holds, without ever waiting."""

def prepare() -> str:
    """Make the AIO context of the control threads, unless this process has one.

    Returns why it could not, or an empty text.
    """

def why_not(error: int) -> str:
    """A sentence with the remedy for the error number that io_setup(2) or memfd_create(2) failed with; "" for 0."""

def signal(fd: int) -> bool:
    """Add 1 to an eventfd, or send 8 bytes to a socket. Never waits; a full one counts as signalled.

    False: there is no AIO context, so only a thread that may wait can do it.
    """

def is_unix_socket(fd: int) -> bool:
    """Whether it is a socket of AF_UNIX. Asks no file system and no protocol."""
