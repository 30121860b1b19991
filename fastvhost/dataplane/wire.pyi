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
