"""One direction of traffic, and how its queue pairs are shared out among workers."""

from fastvhost.dataplane.port import Port

class Wire:
    """Frames that arrive at ingress leave at egress; queue pair p of the one at pair p % active of the other.

    shares: workers that share its queue pairs out among them. A receiveq of the egress belongs to one share, with
    every queue pair of the ingress that delivers into it: no two workers ever meet at a queue. Raises ValueError where
    the ingress has a wire already.
    """

    ingress: Port
    egress: Port | None
    shares: int
    def __init__(
        self, ingress: Port, egress: Port | None, *, hold: bool, hold_timeout_ms: int, shares: int = 1
    ) -> None: ...
    def set_limit(self, *, bits: float = 0.0, frames: float = 0.0, burst: float = 0.0) -> None:
        """How much is taken from the ingress in a second, by all workers together; 0: any number.

        What is beyond waits in the sender's ring. burst: bytes that may come at once beyond `bits`; 0: those of 10 ms,
        64 KiB at least. Of frames, those of 10 ms may come at once, 64 at least. May be called while workers run.
        """
