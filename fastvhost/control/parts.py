"""What the switch is put together from, as types and as the real thing. Tests hand the switch other parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastvhost.control import host_kinds, records
from fastvhost.control.config import FwdConfig
from fastvhost.control.port_spec import PortSpec
from fastvhost.control.watch import AnyWatch


class PortCounters(Protocol):
    """fastvhost.dataplane.port.Counters, as statistics read it."""

    @property
    def rx_frames(self) -> int: ...
    @property
    def rx_bytes(self) -> int: ...
    @property
    def tx_frames(self) -> int: ...
    @property
    def tx_bytes(self) -> int: ...
    @property
    def rx_dropped(self) -> Mapping[str, int]: ...
    @property
    def tx_dropped(self) -> Mapping[str, int]: ...
    @property
    def calls(self) -> int: ...


class AnyPort(Protocol):
    """A data plane port of any kind."""

    @property
    def link_up(self) -> bool: ...
    def counters(self) -> PortCounters: ...
    def close(self) -> None: ...


class AnyWorker(Protocol):
    """A data plane worker."""

    def add_wire(self, ingress: Any, egress: Any, *, hold: bool, hold_timeout_ms: int, shares: int) -> Any: ...
    def share_wire(self, wire: Any, share: int) -> None: ...
    def prepare(self) -> str: ...
    def run(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def rounds(self) -> int: ...
    @property
    def busy_rounds(self) -> int: ...
    @property
    def sleeps(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Service(Protocol):
    """The control side of one port, in a thread of its own."""

    def open(self) -> None: ...
    def start(self) -> None: ...
    def withdraw(self) -> None: ...
    def stop(self, timeout: float) -> None: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Factories of what the switch owns."""

    door: Callable[[], Any]
    worker: Callable[[Any, str, FwdConfig], AnyWorker]
    port: Callable[[PortSpec, Any], AnyPort]
    service: Callable[[PortSpec, Any, str | None], Service | None]
    drop_reasons: tuple[str, ...]
    refusals: tuple[type[Exception], ...]
    """What these parts raise where the configuration cannot be put into effect."""
    watch: Callable[[Sequence[Any]], AnyWatch] | None = None
    """Over the workers, once they have their wires."""


def real_parts() -> Parts:
    """The data plane and both vhost protocols. Imported here so that other verbs start without them."""
    from fastvhost.dataplane import drop_reason
    from fastvhost.dataplane.door import Door
    from fastvhost.dataplane.hold_watch import HoldWatch
    from fastvhost.dataplane.port import NullPort
    from fastvhost.dataplane.virtio_port import VirtioPort
    from fastvhost.dataplane.worker import Worker
    from fastvhost.frontend import foreign_files
    from fastvhost.vhostcuse.service import VhostCuseService
    from fastvhost.vhostuser.service import Device, VhostUserService, promised_pairs

    def port(spec: PortSpec, door: Door) -> AnyPort:
        if spec.kind == "null":
            return NullPort(spec.name)
        if spec.kind in host_kinds.CHECKS:
            return host_kinds.make_port(spec, door)
        pairs = spec.queues if spec.kind == "cuse" else promised_pairs(spec.queues)
        return VirtioPort(spec.name, door, pairs, close_fd=foreign_files.close)

    def service(spec: PortSpec, port: Any, socket_group: str | None) -> Service | None:
        if spec.kind == "null":
            return None
        if spec.kind in host_kinds.CHECKS:
            return host_kinds.make_service(spec, port)
        if spec.kind == "cuse":
            return VhostCuseService(
                spec.interface,
                port,
                device_group=socket_group,
                most_memory=spec.memory,
                any_memory_file=spec.any_memory_file,
            )
        return VhostUserService(
            spec.path,
            port,
            mode=spec.mode,
            socket_group=socket_group,
            most_memory=spec.memory,
            any_memory_file=spec.any_memory_file,
            without=spec.without,
            queue_pairs=spec.queues,
            device=Device(bytes.fromhex(spec.mac.replace(":", "")), spec.mtu),
            keep_record=functools.partial(records.keep, beside=spec.mode == "server"),
        )

    def worker(door: Door, name: str, settings: FwdConfig) -> AnyWorker:
        return Worker(door, name, idle=settings.idle, nap_us=round(settings.idle_sleep_max * 1e6))

    return Parts(Door, worker, port, service, drop_reason.NAMES, (OSError, ValueError), HoldWatch)
