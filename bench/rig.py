"""The data plane between two built-in guests in this process: no sockets, and no threads but the caller's."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from bench import conservation
from fastvhost.control.vlans import Vlans
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
TPID, UNTAGGED = b"\x81\0", b"\x88\xb5"
USUAL_FEATURES = Feature.VERSION_1 | Feature.MRG_RXBUF | Feature.EVENT_IDX
POLLED = GuestSettings(kick=False)


@dataclass(frozen=True)
class Rig:
    """Two guests, their ports, the worker between them."""

    devices: tuple[GuestDevice, GuestDevice]
    ports: tuple[VirtioPort, VirtioPort]
    worker: Worker
    load: Load
    table: ForwardingTable | None
    """Of `learn`. It has a port more than there are."""


@contextlib.contextmanager
def rig(
    settings: GuestSettings = POLLED,
    *,
    both_ways: bool = True,
    features: Feature = USUAL_FEATURES,
    hold: bool = True,
    hold_timeout_ms: int = 1000,
    journals: bool = False,
    learn: bool = False,
    vlans: tuple[Vlans, Vlans] | None = None,
) -> Iterator[Rig]:
    """Guests and ports, wired a to b and back, rings live and empty. journals: packed rings note their batches.

    vlans: of both ports, for `learn`. A guest at a trunk tags its frames with the first VLAN of it.

    settings: of both guests. Without kicks by default, since the worker polls.
    """
    door = Door()
    with contextlib.ExitStack() as closing:
        devices, ports = [], []
        for tag, name, sends in ((1, "a", True), (2, "b", both_ways)):
            device = GuestDevice(settings, features=int(features), tag=tag, peer_tag=3 - tag, sends=sends)
            closing.callback(device.close)
            if vlans and (trunk := vlans[tag - 1].tagged):
                _tag_frames(device, trunk[0])
            port = VirtioPort(name, door)
            closing.callback(port.close)
            if journals:
                port.keep_journals(mmap.mmap(-1, len(RINGS) * JOURNAL_BYTES))
            attach(device, port, settings.queue_size, closing)
            devices.append(device)
            ports.append(port)
        worker = Worker(door)
        table = ForwardingTable(ports=3) if learn else None
        bridge = Bridge(tuple(ports), table) if table else None
        for number, one in enumerate(vlans or ()):
            assert bridge
            bridge.set_vlans(number, native=one.untagged, tagged=one.tagged)
        for ingress, egress in (ports, ports[::-1]):
            leads_to = None if bridge else egress
            worker.add_wire(ingress, leads_to, hold=hold, hold_timeout_ms=hold_timeout_ms, bridge=bridge)
        yield Rig((devices[0], devices[1]), (ports[0], ports[1]), worker, Load(*devices), table)
        conservation.check(worker, *ports)
        for port in ports:
            for index in RINGS:
                port.stop_queue(index)
            port.set_memory(None)


def _tag_frames(device: GuestDevice, vlan: int) -> None:
    """Make the frames that a guest holds ready, of an experiment's EtherType, ones of a VLAN, and no longer."""
    with mmap.mmap(device.ram.fd, device.ram.bytes) as memory:
        at = memory.find(UNTAGGED)
        while at >= 0:
            memory[at : at + 4] = TPID + vlan.to_bytes(2, "big")
            at = memory.find(UNTAGGED, at)


def attach(
    device: GuestDevice, port: VirtioPort, queue_size: int, closing: contextlib.ExitStack, *, kicks: bool = False
) -> None:
    """Start the rings, as a session does when a front-end has sent everything. kicks: its driver notifies the port."""
    ram = device.ram
    mapping = Mapping(ram.fd, ram.guest_addr, ram.bytes, ram.user_addr, 0)
    closing.callback(mapping.close)
    port.set_link(True)
    port.set_features(device.features & ~int(Feature.PROTOCOL_FEATURES))
    port.set_memory(GuestMemory([mapping]))
    for index in RINGS:
        desc, avail, used = device.ring_addresses(index)
        setup = QueueSetup(queue_size, desc, avail, used, device.base, device.call_fds[index])
        port.start_queue(index, setup._replace(kick_fd=device.kick_fds[index]) if kicks else setup)
