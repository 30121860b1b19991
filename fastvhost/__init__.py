"""fastvhost: a vhost-user back-end and busy-polling forwarder, one copy from guest to guest.

`import fastvhost` is cheap: public names load their module at first use.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fastvhost._version import __version__

if TYPE_CHECKING:
    from fastvhost.control.attachment import Attachment, attach
    from fastvhost.control.errors import FastvhostError, RuntimeFailure, UsageError
    from fastvhost.control.events import Event, Happened
    from fastvhost.control.switch import Switch
    from fastvhost.dataplane.door import Door
    from fastvhost.dataplane.forwarding_table import ForwardingTable
    from fastvhost.dataplane.guest_memory import GuestMemory, Mapping, MemoryRefusedError
    from fastvhost.dataplane.offload.asked import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Offload
    from fastvhost.dataplane.port import Counters, NullPort, Port
    from fastvhost.dataplane.ports.endpoint import Endpoint, EndpointClosedError
    from fastvhost.dataplane.ports.endpoint_burst import Burst
    from fastvhost.dataplane.queue_setup import QueueSetup
    from fastvhost.dataplane.ring_refusal import RingRefusedError
    from fastvhost.dataplane.virtio_port import VirtioPort
    from fastvhost.dataplane.wire import Wire
    from fastvhost.dataplane.worker import Worker
    from fastvhost.vhostuser.service import VhostUserService

_HOMES = {
    "Attachment": "control.attachment",
    "attach": "control.attachment",
    "FastvhostError": "control.errors",
    "RuntimeFailure": "control.errors",
    "UsageError": "control.errors",
    "Event": "control.events",
    "Happened": "control.events",
    "Switch": "control.switch",
    "Burst": "dataplane.ports.endpoint_burst",
    "Endpoint": "dataplane.ports.endpoint",
    "EndpointClosedError": "dataplane.ports.endpoint",
    "ForwardingTable": "dataplane.forwarding_table",
    "GuestMemory": "dataplane.guest_memory",
    "Mapping": "dataplane.guest_memory",
    "MemoryRefusedError": "dataplane.guest_memory",
    "GSO_ECN": "dataplane.offload.asked",
    "GSO_TCPV4": "dataplane.offload.asked",
    "GSO_TCPV6": "dataplane.offload.asked",
    "GSO_UDP_L4": "dataplane.offload.asked",
    "Offload": "dataplane.offload.asked",
    "Counters": "dataplane.port",
    "NullPort": "dataplane.port",
    "Port": "dataplane.port",
    "QueueSetup": "dataplane.queue_setup",
    "RingRefusedError": "dataplane.ring_refusal",
    "VirtioPort": "dataplane.virtio_port",
    "Door": "dataplane.door",
    "Wire": "dataplane.wire",
    "Worker": "dataplane.worker",
    "VhostUserService": "vhostuser.service",
}

__all__ = [
    "GSO_ECN",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP_L4",
    "Attachment",
    "Burst",
    "Counters",
    "Door",
    "Endpoint",
    "EndpointClosedError",
    "Event",
    "FastvhostError",
    "ForwardingTable",
    "GuestMemory",
    "Happened",
    "Mapping",
    "MemoryRefusedError",
    "NullPort",
    "Offload",
    "Port",
    "QueueSetup",
    "RingRefusedError",
    "RuntimeFailure",
    "Switch",
    "UsageError",
    "VhostUserService",
    "VirtioPort",
    "Wire",
    "Worker",
    "__version__",
    "attach",
    "build_info",
    "get_include",
]


def __getattr__(name: str) -> object:
    if home := _HOMES.get(name):
        return getattr(import_module(f"fastvhost.{home}"), name)
    raise AttributeError(f"module 'fastvhost' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__


def build_info() -> dict[str, str]:
    """Version, compiler flags, compiler, Cython, and the CPU level that copies use on this machine."""
    from fastvhost import _build
    from fastvhost.dataplane.receiveq import copy_level

    return {
        "version": __version__,
        "flags": _build.flags(),
        "compiler": _build.compiler(),
        "cython": _build.cython(),
        "cpu_level": copy_level(),
    }


def get_include() -> str:
    """The directory for include_dirs and include_path: C headers are "fastvhost/abi/...", .pxd files fastvhost/...."""
    return str(Path(__file__).resolve().parent.parent)
