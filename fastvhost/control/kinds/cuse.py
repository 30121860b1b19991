"""cuse:NAME, a guest whose front-end opens /dev/NAME, a device file like vhost-net's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvhost.backend.qemu import Version
from fastvhost.control import host, port_keys
from fastvhost.control.errors import UsageError
from fastvhost.control.finding import Finding
from fastvhost.control.policy import Policy
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec

DEVICE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}")
DEVICES = Path("/dev")
FIRST_FD = 5

# QEMU wants a tap beside the device file, but no frame goes through it. Offloads are between the guest and that tap:
# QEMU tells the device file nothing of them (kernel_feature_bits in hw/net/vhost_net.c). Without vnet_hdr, no offloads.
QEMU = """\
exec {opened}
{taps_opened}qemu-system-x86_64 -accel kvm -cpu host -m {memory} -machine q35,memory-backend=m0 \\
  -object memory-backend-memfd,id=m0,size={memory},share=on \\
  -netdev tap,id=net-{name},vhost=on,{tap_fds} \\
  -device virtio-net-pci,netdev=net-{name},mac={mac}{device_queues} \\
  -drive file=guest.qcow2,if=virtio"""

LIBVIRT = """\
<!-- in <domain>: the guest's memory must be shared -->
<memoryBacking>
  <source type='memfd'/>
  <access mode='shared'/>
</memoryBacking>
<!-- in <devices> -->
<interface type='ethernet'>
  <mac address='{mac}'/>
  <model type='virtio'/>
  <backend tap='/dev/net/tun' vhost='{path}'/>
  <driver name='vhost'{libvirt_queues}>
    <host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off'/>
    <guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/>
  </driver>
</interface>"""

VIRTIO_USER = """\
dpdk-testpmd --no-pci --no-huge -m 1024 --file-prefix={name} \\
  --vdev net_virtio_user0,path={path},queues={queues},queue_size=1024 -- -i"""

TEMPLATES = {"qemu": QEMU, "libvirt": LIBVIRT, "virtio-user": VIRTIO_USER}


def _pidfds() -> str:
    """Why files of another process cannot be fetched on this host; or an empty text."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"pidfd_open: {error.strerror}"
    return ""


def device_files() -> Finding:
    """Whether device files can be served, and guests' files fetched."""
    if not Path("/dev/cuse").exists():
        return Finding("note", "no /dev/cuse: cuse: ports do not work, others do", "sudo modprobe cuse")
    if not os.access("/dev/cuse", os.R_OK | os.W_OK):
        return Finding("note", "/dev/cuse is not open to this user: no cuse: ports", "run fwd as root")
    if reason := _pidfds():
        return Finding(
            "note",
            f"{reason}: cuse: ports cannot fetch their guests' files",
            "allow the system calls pidfd_open and pidfd_getfd in the seccomp filter, or take Linux 5.6",
        )
    if not host.has_capability(host.CAP_SYS_PTRACE):
        return Finding(
            "note",
            "no CAP_SYS_PTRACE: cuse: ports serve only guests of this user, where kernel.yama.ptrace_scope is 0",
            "run fwd as root, or sudo setcap cap_sys_ptrace+ep on its Python",
        )
    return Finding("ok", "/dev/cuse is there, and guests' eventfds can be fetched: cuse: ports work")


class Cuse(Kind):
    """A guest behind a device file."""

    name, place = "cuse", 20
    usage = "cuse:NAME[,queues=N][,memory=N][,memory-files=any]"
    keys = port_keys.OF_GUESTS
    findings = (device_files,)
    guests = tuple(TEMPLATES)

    def read(self, where: str, value: str, options: Options) -> Keys:
        """The device's name, queues= and the keys of guest memory."""
        if not DEVICE_NAME.fullmatch(value):
            raise UsageError(f"{where}: '{value}' is no device's name; write cuse:NAME, for a file /dev/NAME")
        return (*port_keys.queues(where, options), *port_keys.memory(where, options))

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """A VirtioPort."""
        from fastvhost.backend import foreign_files
        from fastvhost.dataplane.virtio_port import VirtioPort

        return VirtioPort(spec.name, door, spec.queues, close_fd=foreign_files.close)

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service:
        """The device file."""
        from fastvhost.vhostcuse.service import VhostCuseService

        return VhostCuseService(
            spec.value,
            port,
            device_group=socket_group,
            most_memory=port_keys.most_memory(spec),
            any_memory_file=port_keys.any_memory_file(spec),
        )

    def from_description(self, about: Mapping[str, Any]) -> PortSpec:
        """With the name of its device."""
        name = about["device"].removeprefix(f"{DEVICES}/")
        return PortSpec(self, name, Policy(about["name"]), (("queues", str(about.get("queue_pairs", 1))),))

    def example(self, guest: str, spec: PortSpec, memory: str, version: Version | None) -> str:  # noqa: ARG002
        """The device file is opened once for each queue pair."""
        if guest not in TEMPLATES:
            raise UsageError(f"{guest}: it speaks vhost-user only, no vhost-net; give it a vhost-user port")
        from fastvhost.control.open_taps import open_taps

        path, many = DEVICES / spec.value, spec.queues > 1
        fds, taps = open_files(spec.queues)
        return TEMPLATES[guest].format(
            name=spec.name,
            path=path,
            memory=memory,
            queues=spec.queues,
            mac=port_keys.guest_mac(spec.name),
            opened=" ".join(f"{fd}<>{path}" for fd in fds),
            taps_opened=f"python3 -c '{open_taps(taps)}' \\\n" if many else "",
            tap_fds=tap_options(fds, taps),
            device_queues=f",mq=on,vectors={2 * spec.queues + 2}" if many else "",
            libvirt_queues=f" queues='{spec.queues}'" if many else "",
        )


def open_files(queues: int) -> tuple[list[int], list[int]]:
    """QEMU's file descriptors of the device file, one for each queue pair, and of the queues of the tap beside it."""
    return list(range(FIRST_FD, FIRST_FD + queues)), list(range(FIRST_FD + queues, FIRST_FD + 2 * queues))


def tap_options(fds: list[int], taps: list[int]) -> str:
    """Options of QEMU's -netdev tap for open device files. With a single one, QEMU opens the tap itself."""
    if len(fds) == 1:
        return f"script=no,downscript=no,vnet_hdr=off,vhostfd={fds[0]}"
    return f"fds={':'.join(map(str, taps))},vhostfds={':'.join(map(str, fds))}"


KIND = Cuse()
