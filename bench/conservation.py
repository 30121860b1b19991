"""Nothing is lost without a word: what came in equals what went out, plus what was dropped on the way, plus what waits.

Of all ports of a forwarder together, where each has one wire at most: `rx_frames` are the frames that ports received,
`tx_frames` those that they delivered. A frame that a port received is delivered once, or dropped once: by the port it
goes to (each reason of `tx_dropped`) or, where no wire leads on, as `no_egress`. The other reasons of `rx_dropped` are
those of what never became a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from bench.guests.waits import WaitedTooLong, wait_until
from fastvhost.control.errors import RuntimeFailure

NEVER_A_FRAME_BUT = "no_egress"


class Counted(Protocol):
    """A port's counters."""

    @property
    def rx_frames(self) -> int: ...
    @property
    def tx_frames(self) -> int: ...
    @property
    def rx_dropped(self) -> Mapping[str, int]: ...
    @property
    def tx_dropped(self) -> Mapping[str, int]: ...


class AnyPort(Protocol):
    """A data plane port."""

    def counters(self) -> Counted: ...


class AnyWorker(Protocol):
    """A worker that stands still."""

    @property
    def waiting(self) -> int: ...


def check(worker: AnyWorker, *ports: AnyPort) -> None:
    """All ports that this worker, which stands still, has wires of. Raises AssertionError with the sum."""
    counted = [port.counters() for port in ports]
    came = sum(one.rx_frames for one in counted)
    _compare(came, [(one.tx_frames, one.tx_dropped, one.rx_dropped) for one in counted], worker.waiting)


def check_stats(ask: Callable[[], Mapping[str, Any]], seconds: float = 0.5) -> None:
    """The same of a forwarder that runs, as soon as two of its answers are alike: while frames move, nothing is exact.

    Where that does not happen within so many seconds its guests are not done, or it does not answer: no time to count.
    """
    before: Any = None

    def at_rest() -> Any:
        nonlocal before
        answer = ask()
        now = answer["ports"], [worker["waiting"] for worker in answer["workers"].values()]
        alike, before = now == before, now
        return now if alike else None

    try:
        ports, waiting = wait_until("two answers that are alike", seconds, at_rest)
    except (WaitedTooLong, RuntimeFailure):
        return
    came = sum(port["rx_frames"] for port in ports.values())
    gone = [(port["tx_frames"], port["tx_dropped"], port["rx_dropped"]) for port in ports.values()]
    _compare(came, gone, sum(waiting))


def _compare(came: int, gone: Iterable[tuple[int, Mapping[str, int], Mapping[str, int]]], waiting: int) -> None:
    delivered = dropped = 0
    for frames, tx_dropped, rx_dropped in gone:
        delivered += frames
        dropped += sum(tx_dropped.values()) + rx_dropped[NEVER_A_FRAME_BUT]
    assert came == delivered + dropped + waiting, (
        f"{came} frames came in; {delivered} were delivered, {dropped} dropped, {waiting} wait"
    )
