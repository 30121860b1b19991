"""The data plane between two built-in guests in this process: no sockets, and no threads but the caller's."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from bench import conservation
from fastvhost.dataplane.bridge import Bridge
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.forwarding_table import ForwardingTable
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping
from fastvhost.dataplane.packed_journal import JOURNAL_BYTES
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.frontend import Feature
from fastvhost.driver.load import Load
from fastvhost.driver.settings import GuestSettings

RINGS = (0, 1)
USUAL_FEATURES = Feature.VERSION_1 | Feature.MRG_RXBUF | Feature.EVENT_IDX
POLLED = GuestSettings(kick=False)


@dataclass(frozen=True)
class Rig:
    """Two guests, their ports, the worker between them."""

    devices: tuple[GuestDevice, GuestDevice]
    ports: tuple[VirtioPort, VirtioPort]
    worker: Worker
    load: Load


@contextlib.contextmanager
def rig(
    settings: GuestSettings = POLLED,
    *,
    both_ways: bool = True,
    features: Feature = USUAL_FEATURES,
    hold: bool = True,
    journals: bool = False,
    learn: bool = False,
) -> Iterator[Rig]:
    """Guests and ports, wired a to b and back, rings live and empty. journals: packed rings note their batches.

    settings: of both guests. Without kicks by default, since the worker polls.
    """
    door = Door()
    with contextlib.ExitStack() as closing:
        devices, ports = [], []
        for tag, name, sends in ((1, "a", True), (2, "b", both_ways)):
            device = GuestDevice(settings, features=int(features), tag=tag, peer_tag=3 - tag, sends=sends)
            closing.callback(device.close)
            port = VirtioPort(name, door)
            closing.callback(port.close)
            if journals:
                port.keep_journals(mmap.mmap(-1, len(RINGS) * JOURNAL_BYTES))
            _attach(device, port, settings.queue_size, closing)
            devices.append(device)
            ports.append(port)
        worker = Worker(door)
        bridge = Bridge(tuple(ports), ForwardingTable(ports=2)) if learn else None
        for ingress, egress in (ports, ports[::-1]):
            worker.add_wire(ingress, None if bridge else egress, hold=hold, hold_timeout_ms=1000, bridge=bridge)
        yield Rig((devices[0], devices[1]), (ports[0], ports[1]), worker, Load(*devices))
        conservation.check(worker, *ports)
        for port in ports:
            for index in RINGS:
                port.stop_queue(index)
            port.set_memory(None)


def _attach(device: GuestDevice, port: VirtioPort, queue_size: int, closing: contextlib.ExitStack) -> None:
    """Start the rings, as a session does when a front-end has sent everything."""
    ram = device.ram
    mapping = Mapping(ram.fd, ram.guest_addr, ram.bytes, ram.user_addr, 0)
    closing.callback(mapping.close)
    port.set_link(True)
    port.set_features(device.features & ~int(Feature.PROTOCOL_FEATURES))
    port.set_memory(GuestMemory([mapping]))
    for index in RINGS:
        desc, avail, used = device.ring_addresses(index)
        port.start_queue(index, QueueSetup(queue_size, desc, avail, used, device.base, device.call_fds[index]))
