"""The lock of a receive queue, taken by a test as if it were another worker."""

from fastvhost.dataplane.port import Port

def hold(port: Port, pair: int) -> bool:
    """Whether nobody had it."""

def let_go(port: Port, pair: int) -> None: ...
