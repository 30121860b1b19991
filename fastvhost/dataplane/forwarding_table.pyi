"""The forwarding table as control sees it: made, changed, listed."""

from typing import final

from fastvhost.dataplane.mac_row import Flapping, MacRow

OUTCOMES: tuple[str, ...]
"""What came of learning, in the words of counters."""

@final
class ForwardingTable:
    """Which port an address was last seen at, by address and VLAN. For ports with numbers from 0.

    Workers read it without a lock, and learn (mac_table, mac_learn). These methods are for control, from any thread.
    They raise ValueError, with the remedy, for an address, VLAN (0 to 4094) or port that cannot be. An address is
    written like 52:54:00:12:34:56.
    """

    def __init__(self, *, addresses: int = 65536, ports: int = 1024, max_age: int = 300) -> None:
        """addresses: 1024 to 1048576 that it is made for, rounded up to a power of two; it has twice as many places.

        ports: numbers are below it, 65535 at most. max_age: seconds, 1 to 32767, after which an entry without a frame
        from its address no longer answers.
        """
    @property
    def addresses(self) -> int:
        """How many it is made for."""
    @property
    def buckets(self) -> int:
        """Of four places each: a power of two."""
    @property
    def generation(self) -> int:
        """Changes whenever an answer that somebody keeps may have become wrong."""
    @property
    def flapped(self) -> int:
        """How often an address was found to move too often."""
    @property
    def last_flapping(self) -> Flapping | None:
        """The address that was last found to move too often. Read while it is written, its ports may be another's."""
    def find(self, address: str, vlan: int = 0) -> int | None:
        """The port of an address."""
    def static_port(self, address: str, vlan: int = 0) -> int | None:
        """The port of a static entry."""
    def reserved_port(self, address: str) -> int | None:
        """The port that an address is reserved for."""
    def set_limits(self, port: int, *, max_macs: int = 1024, learn_rate: int = 0) -> None:
        """How many addresses a port may have, and learn in a second (0: any number).

        Entries beyond a lower limit stay until they are too old. Entries that no longer answer count until a sweep
        has removed them. Static ones do not count.
        """
    def add(self, address: str, port: int, vlan: int = 0) -> None:
        """A static entry, instead of one that was learned. ValueError, too: it is static at, or reserved for, another
        port, or static entries have all places it may take."""
    def remove(self, address: str, vlan: int = 0) -> None:
        """A static entry. ValueError, too: there is none."""
    def reserve(self, address: str, port: int) -> None:
        """Learned at no other port, in no VLAN. ValueError, too: reserved for, or static at, another port."""
    def release(self, address: str) -> None:
        """The reservation of an address. ValueError, too: there is none."""
    def reservations(self) -> dict[str, int]:
        """Ports by the addresses that are reserved for them."""
    def forget_answers(self) -> None:
        """What workers remember of their last look-ups is looked up anew."""
    def flush(self, *, port: int | None = None, vlan: int | None = None) -> int:
        """Forget what was learned: of a port, of a VLAN, of a port in a VLAN, or all.

        From one moment on none of it answers, however many entries there are. Then they are removed, which holds up no
        worker; it takes about a millisecond for 65536 addresses. Returns how many were removed.
        """
    def forget_port(self, port: int) -> None:
        """Remove everything of a port that goes: entries that were learned, static ones, reservations, its counts."""
    def set_tick(self, seconds: int) -> None:
        """The time, by which entries age. Called once a second, by control; only its low 16 bits matter."""
    def sweep(self, buckets: int | None = None) -> int:
        """Remove what no longer answers from so many buckets of four places, behind those of the last call.

        None: from all. Each has to be visited once in 32767 s; limits are more exact the more often. Returns
        how many entries were removed.
        """
    def rows(self, first: int = 0, buckets: int | None = None) -> list[MacRow]:
        """The entries of so many buckets from the first one on, or all, as they are while workers go on learning.

        Reservations are not among them. An entry stays in its bucket: whoever asks for one part after another gets
        each entry once that is there all the time.
        """
    def counters(self, port: int) -> dict[str, int]:
        """Of a port: "entries" it has now, those "evicted" for another port's, and what came of learning (OUTCOMES)."""
