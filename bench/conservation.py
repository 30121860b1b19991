"""Checks that no frame is uncounted: frames received equal frames sent, plus dropped ones, plus waiting ones.

The sums are of all ports of a forwarder, each with one wire at most, or all of one switch. `rx_frames` are the frames
that ports received, `tx_frames` those that they delivered. A frame that a port received is delivered once, or dropped
once: by the port it goes to (each reason of `tx_dropped`) or, where nothing leads on, by the port it came from
(LED_NOWHERE). The other reasons of `rx_dropped` count what never became a frame. One that went to several ports is
counted among the `copies` of the port it came from, once for each port but one. A super-frame that a port gets in
pieces comes in once, and is `segmented` frames there: one of `cut`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from bench.guests.waits import MAX_WAIT, WaitedTooLong, wait_until
from fastvhost.control.errors import RuntimeFailure

LED_NOWHERE = "no_egress", "same_port", "reserved_address", "vlan_denied", "spoofed_source", "isolated", "storm"


class Counted(Protocol):
    """A port's counters."""

    @property
    def rx_frames(self) -> int: ...
    @property
    def tx_frames(self) -> int: ...
    @property
    def cut(self) -> int: ...
    @property
    def segmented(self) -> int: ...
    @property
    def copies(self) -> int: ...
    @property
    def rx_dropped(self) -> Mapping[str, int]: ...
    @property
    def tx_dropped(self) -> Mapping[str, int]: ...


class AnyPort(Protocol):
    """A data plane port."""

    def counters(self) -> Counted: ...


class AnyWorker(Protocol):
    """A worker that does not run."""

    @property
    def waiting(self) -> int: ...


def check(worker: AnyWorker, *ports: AnyPort) -> None:
    """Check all ports that a stopped worker has wires of. Raises AssertionError with the sums."""
    counted = [port.counters() for port in ports]
    came = sum(one.rx_frames + one.copies for one in counted)
    gone = [(one.tx_frames + one.cut - one.segmented, one.tx_dropped, one.rx_dropped) for one in counted]
    _compare(came, gone, worker.waiting)


def check_stats(ask: Callable[[], Mapping[str, Any]], seconds: float = 1.0) -> bool:
    """Check a running forwarder once two of its answers are equal: while frames move, the sums are not exact.

    Between them each worker has gone round: one that has no CPU may hold frames that it has counted once so far. False
    where that does not happen within so many seconds: its guests are not done, or it does not answer.
    """
    before: Any = None
    since: list[int] = []

    def at_rest() -> Any:
        nonlocal before, since
        answer = ask()
        workers = answer["workers"].values()
        now = answer["ports"], [worker["waiting"] for worker in workers]
        rounds = [worker["rounds"] for worker in workers]
        if now != before:
            before, since = now, rounds
            return None
        return now if all(n > then + 1 for then, n in zip(since, rounds, strict=True)) else None

    try:
        ports, waiting = wait_until("two answers that are alike", seconds, at_rest)
    except (WaitedTooLong, RuntimeFailure):
        return False
    _compare_answers(ports.values(), sum(waiting))
    return True


def check_pair(ask: Callable[[], Mapping[str, Any]], *names: str, seconds: float = MAX_WAIT) -> None:
    """Check two ports wired to each other, whose guests have stopped, while other ports of that forwarder go on.

    None of their frames waits: all chains that were sent came back. So what came in was delivered or dropped. Counters
    may be read a moment too early. Raises AssertionError where they do not add up within so many seconds.
    """
    start = time.monotonic()
    while True:
        answer = ask()["ports"]
        try:
            return _compare_answers([answer[name] for name in names], 0)
        except AssertionError:
            if time.monotonic() > start + seconds:
                raise
        time.sleep(0.005)


def _compare_answers(ports: Collection[Mapping[str, Any]], waiting: int) -> None:
    came = sum(port["rx_frames"] + port["copies"] for port in ports)
    frames = [port["tx_frames"] + port["cut"] - port["segmented"] for port in ports]
    drops = [(port["tx_dropped"], port["rx_dropped"]) for port in ports]
    _compare(came, [(n, *dropped) for n, dropped in zip(frames, drops, strict=True)], waiting)


def _compare(came: int, gone: Iterable[tuple[int, Mapping[str, int], Mapping[str, int]]], waiting: int) -> None:
    delivered = dropped = 0
    for frames, tx_dropped, rx_dropped in gone:
        delivered += frames
        dropped += sum(tx_dropped.values()) + sum(rx_dropped.get(reason, 0) for reason in LED_NOWHERE)
    assert came == delivered + dropped + waiting, (
        f"{came} frames came in; {delivered} were delivered, {dropped} dropped, {waiting} wait"
    )
