"""The forwarding table as workers use it, one call or millions at a time."""

from fastvhost.dataplane.forwarding_table import ForwardingTable

def destination(header: bytes, vlan: int) -> int:
    """The key of a frame's destination."""

def source(header: bytes, vlan: int) -> int: ...
def link_local(key: int) -> bool: ...
def look_up(table: ForwardingTable, key: int) -> int | None: ...
def learn_one(table: ForwardingTable, key: int, port: int) -> str:
    """What came of it."""

def buckets(table: ForwardingTable, key: int) -> tuple[int, int]:
    """The numbers of the two buckets that a key may be in."""

def contents(table: ForwardingTable, bucket: int) -> list[int]:
    """The keys in a bucket."""

def flushes(table: ForwardingTable) -> int:
    """The number of the last flush: 0 to 65535."""

def set_flushes(table: ForwardingTable, number: int) -> None: ...
def begin(table: ForwardingTable, port: int, vlan: int) -> None:
    """A flush whose sweep is still to come."""

def end(table: ForwardingTable) -> None: ...
def hold_lock(table: ForwardingTable) -> None:
    """As a worker that is writing and was interrupted."""

def let_lock_go(table: ForwardingTable) -> None: ...

class Keys:
    """Keys in an array, for calls in a loop."""

    def __init__(self, keys: list[int]) -> None: ...
    def stop(self) -> None: ...
    def find_all(self, table: ForwardingTable, turns: int) -> int:
        """Look up each key so many times. Returns the hits."""
    def learn_all(self, table: ForwardingTable, port: int, turns: int) -> int:
        """Returns how often the outcome was none of the first two."""
    def count_all(self, turns: int) -> int:
        """The loop without a table."""
    def churn(self, table: ForwardingTable, ports: int, most: int) -> int:
        """As a busy worker: key i is learned from ports i % ports and ports + i % ports in turns, so many turns.

        Ends early after stop(). Returns how many were learned.
        """
    def watch(self, table: ForwardingTable, ports: int) -> tuple[int, int]:
        """Look them all up, again and again, until stop(): how many had a port, and how many one they never had."""
