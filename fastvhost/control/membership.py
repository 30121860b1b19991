"""Ports enter and leave an Ethernet switch while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from fastvhost.control import enforcement
from fastvhost.control.errors import UsageError

MOST_MEMBERS = 1024
"""Ports of a switch, with those that come while it runs. More only where it starts with more."""


@contextlib.contextmanager
def entered(bridge: Any, come: Sequence[Any]) -> Iterator[None]:
    """New ports (with number, spec and port) have their numbers and VLANs, or the block fails. Raises UsageError."""
    with contextlib.ExitStack() as undo:
        for unit in come if bridge is not None else ():
            try:
                bridge.enter(unit.number, unit.port)
            except ValueError as error:
                raise UsageError(str(error)) from None
            undo.callback(bridge.leave, unit.port)
            undo.callback(bridge.forget, unit.port)
            enforcement.set_vlans(unit.spec.policy, unit.number, bridge)
        yield
        undo.pop_all()


def seats(bridge: Any, before: Sequence[Any], after: Sequence[Any]) -> list[tuple[Any, int, Any]]:
    """Numbers that have another port, or nobody, once these ports are there instead of those before."""
    if bridge is None:
        return []
    come = [(bridge, unit.number, unit.port) for unit in after if unit not in before]
    return [*come, *((bridge, unit.number, None) for unit in before if unit not in after)]


def of(bridge: Any, port: Any) -> Any:
    """The switch, where this port has a number of it; else None."""
    return bridge if bridge is not None and port in bridge.ports else None
