"""The factories by which the forwarder makes its parts. Tests give it other factories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastvhost.control.config import FwdConfig
from fastvhost.control.enforcement import set_vlans
from fastvhost.control.membership import MOST_MEMBERS
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import PortSpec
from fastvhost.control.watch import AnyWatch


class AnyWorker(Protocol):
    """A data plane worker."""

    def share_wire(self, wire: Any, share: int) -> None: ...
    def prepare(self) -> str: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def rounds(self) -> int: ...
    @property
    def busy_rounds(self) -> int: ...
    @property
    def loads(self) -> list[tuple[Any, int, float]]: ...
    @property
    def busy_seconds(self) -> float: ...
    @property
    def sleeps(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class AnyRewiring(Protocol):
    """fastvhost.dataplane.rewiring.Rewiring."""

    def commit(
        self, *, leave: Sequence[Any], join: Sequence[Any], lead: Sequence[Any], seat: Sequence[Any]
    ) -> None: ...
    def move(self, wire: Any, workers: Sequence[Any], *, wait_ms: int) -> bool: ...
    def set_vlans(self, bridge: Any, changes: Sequence[tuple[int, int | None, Sequence[int] | None]]) -> None: ...
    def dismiss(self, port: Any, *, bridge: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Factories of what the forwarder owns."""

    door: Callable[[], Any]
    worker: Callable[[Any, str, FwdConfig], AnyWorker]
    port: Callable[[PortSpec, Any], AnyPort]
    service: Callable[[PortSpec, Any, str | None], Service | None]
    drop_reasons: tuple[str, ...]
    refusals: tuple[type[Exception], ...]
    """Exceptions of these parts that mean: the configuration cannot be put into effect."""
    bridge: Callable[[Sequence[Any], FwdConfig], Any]
    """Makes a switch of ports, for `learn`."""
    wire: Callable[..., Any]
    """Makes a wire, which workers share."""
    rewiring: Callable[[Any, Sequence[Any]], AnyRewiring]
    """From the door and all of its workers: makes what changes their wires while they run."""
    watch: Callable[[Sequence[Any]], AnyWatch] | None = None
    """Makes the watch over the workers, which have their wires by then."""


def real_parts() -> Parts:
    """The real data plane and kinds of port. Imported here so that other verbs start without them."""
    from fastvhost.dataplane import drop_reason
    from fastvhost.dataplane.bridge import Bridge
    from fastvhost.dataplane.door import Door
    from fastvhost.dataplane.forwarding_table import ForwardingTable
    from fastvhost.dataplane.hold_watch import HoldWatch
    from fastvhost.dataplane.rewiring import Rewiring
    from fastvhost.dataplane.wire import Wire
    from fastvhost.dataplane.worker import Worker

    def port(spec: PortSpec, door: Door) -> AnyPort:
        return spec.kind.make_port(spec, door)

    def service(spec: PortSpec, its: Any, socket_group: str | None) -> Service | None:
        return spec.kind.make_service(spec, its, socket_group)

    def worker(door: Door, name: str, settings: FwdConfig) -> AnyWorker:
        return Worker(door, name, idle=settings.idle, nap_us=round(settings.idle_sleep_max * 1e6))

    def bridge(ports: Sequence[Any], settings: FwdConfig) -> Bridge:
        table = ForwardingTable(
            addresses=settings.mac_table, ports=max(len(ports), MOST_MEMBERS), max_age=settings.mac_age
        )
        made = Bridge(tuple(ports), table)
        for number, spec in enumerate(settings.ports):
            set_vlans(spec.policy, number, made)
        return made

    refusals = (OSError, ValueError)
    return Parts(Door, worker, port, service, drop_reason.NAMES, refusals, bridge, Wire, Rewiring, HoldWatch)
