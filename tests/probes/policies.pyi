"""A clock that only the test moves on, for what ports may send in a second."""

from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.wire import Wire
from fastvhost.dataplane.worker import Worker

def set_time(ns: int) -> None: ...
def use_on_bridge(bridge: Bridge) -> None: ...
def use_on_wire(wire: Wire) -> None: ...
def longest_sleep(worker: Worker, ns: int) -> int:
    """How long this worker would sleep at most until it looks up, of so many nanoseconds."""
