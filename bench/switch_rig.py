"""Built-in guests at ports of this process, which a switch joins, or wires in pairs; a worker and a load, stepped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.guest_crowd import device_of
from bench.rig import POLLED, RINGS, USUAL_FEATURES, attach
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings


@dataclass(frozen=True)
class SwitchRig:
    """Guests and their ports, by number."""

    devices: tuple[GuestDevice, ...]
    ports: tuple[VirtioPort, ...]
    worker: Worker
    load: Load
    table: ForwardingTable

    def delivered(self) -> int:
        """Frames so far, at all ports."""
        return sum(port.counters().tx_frames for port in self.ports)


@contextlib.contextmanager
def switch_rig(
    pattern: str,
    n_guests: int,
    *,
    learn: bool = True,
    settings: GuestSettings = POLLED,
    max_macs: int = 1024,
    hold: bool | None = None,
) -> Iterator[SwitchRig]:
    """Rings are live and empty. pattern: who sends to whom (bench.guest_crowd). learn=False: wires 0-1, 2-3, ...

    hold: whether frames wait for room; None: those of wires do.
    """
    settings, door = replace(settings, content="none"), Door()
    with contextlib.ExitStack() as closing:
        devices, ports = [], []
        for guest in range(n_guests):
            device = device_of(settings, int(USUAL_FEATURES), pattern, guest, n_guests)
            closing.callback(device.close)
            port = VirtioPort(f"p{guest}", door)
            closing.callback(port.close)
            attach(device, port, settings.queue_size, closing)
            devices.append(device)
            ports.append(port)
        worker = Worker(door)
        table = ForwardingTable(ports=n_guests)
        bridge = Bridge(tuple(ports), table) if learn else None
        for guest, port in enumerate(ports):
            table.set_limits(guest, max_macs=max_macs)
            egress = None if learn else ports[guest ^ 1]
            waits = not learn if hold is None else hold
            worker.add_wire(port, egress, hold=waits, hold_timeout_ms=1000, bridge=bridge)
        yield SwitchRig(tuple(devices), tuple(ports), worker, Load(*devices), table)
        for port in ports:
            for index in RINGS:
                port.stop_queue(index)
            port.set_memory(None)
