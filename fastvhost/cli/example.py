"""Lines to paste that attach a guest to a port."""

from __future__ import annotations

import argparse
import os
import sys

from fastvhost.cli.output import harmless
from fastvhost.control import control_client, installed, port_spec
from fastvhost.control.errors import FastvhostError, UsageError
from fastvhost.control.open_taps import open_taps
from fastvhost.control.port_spec import PortSpec
from fastvhost.frontend import qemu

QEMU = """\
qemu-system-x86_64 -accel kvm -cpu host -m {memory} -machine q35,memory-backend=m0 \\
  -object memory-backend-memfd,id=m0,size={memory},share=on \\
  -chardev socket,id={name},path={path},{chardev} \\
  -netdev vhost-user,id=net-{name},chardev={name}{netdev_queues} \\
  -device virtio-net-pci,netdev=net-{name},mac={mac}{host_mtu}{device_queues} \\
  -drive file=guest.qcow2,if=virtio"""

LIBVIRT = """\
<!-- in <domain>: the guest's memory must be shared -->
<memoryBacking>
  <source type='memfd'/>
  <access mode='shared'/>
</memoryBacking>
<!-- in <devices> -->
<interface type='vhostuser'>
  <mac address='{mac}'/>
  <source type='unix' path='{path}' mode='{libvirt_mode}'>{libvirt_reconnect}
  </source>
  <model type='virtio'/>{libvirt_queues}
</interface>"""

VIRTIO_USER = """\
dpdk-testpmd --no-pci --no-huge -m 1024 --file-prefix={name} \\
  --vdev net_virtio_user0,path={path},queues={queues},queue_size=1024{virtio_user_mode} -- -i"""

# Its memory is a file in TMPDIR, which others can map where that is a memory file system.
UML = """\
TMPDIR=/dev/shm linux.uml mem={memory} virtio_uml.device={path}:1 \\
  ubd0=guest.img root=/dev/ubda rw"""

CLOUD_HYPERVISOR = """\
cloud-hypervisor --cpus boot={queues} --memory size={memory},shared=on \\
  --kernel vmlinux --disk path=guest.raw --cmdline "root=/dev/vda1 console=hvc0" \\
  --net vhost_user=true,socket={path},vhost_mode={vmm_mode},num_queues={virtqueues},queue_size=1024,mac={mac}{mtu}"""

TEMPLATES = {
    "qemu": QEMU,
    "libvirt": LIBVIRT,
    "virtio-user": VIRTIO_USER,
    "uml": UML,
    "cloud-hypervisor": CLOUD_HYPERVISOR,
}

# Guests of a device file. They need a tap as well, through which nothing goes; without vnet_hdr it has no offloads.
CUSE_QEMU = """\
exec {opened}
{taps_opened}qemu-system-x86_64 -accel kvm -cpu host -m {memory} -machine q35,memory-backend=m0 \\
  -object memory-backend-memfd,id=m0,size={memory},share=on \\
  -netdev tap,id=net-{name},vhost=on,{tap_fds} \\
  -device virtio-net-pci,netdev=net-{name},mac={mac}{device_queues} \\
  -drive file=guest.qcow2,if=virtio"""

CUSE_LIBVIRT = """\
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

CUSE_VIRTIO_USER = """\
dpdk-testpmd --no-pci --no-huge -m 1024 --file-prefix={name} \\
  --vdev net_virtio_user0,path={path},queues={queues},queue_size=1024 -- -i"""

CUSE_TEMPLATES = {"qemu": CUSE_QEMU, "libvirt": CUSE_LIBVIRT, "virtio-user": CUSE_VIRTIO_USER}
FIRST_FD = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What kind of guest, and which port."""
    parser.add_argument("guest", choices=TEMPLATES, metavar="|".join(TEMPLATES), help="what to attach")
    parser.add_argument(
        "port", metavar="PORT", help="a port of the running fwd by name, or a port as in fwd --port, or a socket's path"
    )
    parser.add_argument(
        "--qemu",
        metavar="VERSION",
        help="of the QEMU that takes the lines; default: of the one here, or the newest",
    )
    parser.add_argument("--memory", default="1G", help="memory of the guest; default 1G")
    parser.add_argument("--control", metavar="PATH", help="control socket of the fwd that has the port")


def run(arguments: argparse.Namespace) -> int:
    """Print the lines."""
    spec = _find(arguments.port, arguments.control)
    if not spec.path and spec.kind != "cuse":
        raise UsageError(f"{arguments.port}: a {spec.kind} port takes no guest; name a vhost-user or cuse port")
    version = _version(arguments.qemu)
    print(lines(arguments.guest, spec, arguments.memory, version))
    if said := remark(arguments.guest, spec, version):
        print(f"fastvhost: {said}", file=sys.stderr)
    return 0


def lines(guest: str, spec: PortSpec, memory: str = "1G", version: qemu.Version | None = None) -> str:
    """What to paste for one kind of guest and one port. version: of QEMU; None: the newest."""
    if fault := _fault(guest, spec):
        raise UsageError(f"{guest}: {fault}")
    return _cuse_lines(guest, spec, memory) if spec.kind == "cuse" else _socket_lines(guest, spec, memory, version)


def remark(guest: str, spec: PortSpec, version: qemu.Version | None) -> str:
    """What the lines do not say of themselves, if anything."""
    if guest == "uml":
        own = f"its address is {spec.mac}" if spec.mac else "give the port mac=, or its address is another at each boot"
        return f"{own}; it connects once, at its boot: start fwd first, and after fwd the guest anew"
    if guest == "cloud-hypervisor":
        return "when fwd ends, it must be back within 60 s: after that the interface is off until the VM starts anew"
    if guest != "qemu" or spec.kind == "cuse" or spec.mode != "server":
        return ""
    if version is None:
        return "these lines are for QEMU 9.2 and newer; for an older one add --qemu VERSION"
    if version == qemu.ABORTS:
        return f"{qemu.named(version)} aborts where nobody listens yet: start fwd first"
    return f"these lines are for {qemu.named(version)}; for another one add --qemu VERSION"


def _fault(guest: str, spec: PortSpec) -> str:
    """Why such a guest cannot have such a port, or nothing."""
    if guest not in CUSE_TEMPLATES and spec.kind == "cuse":
        return "it speaks vhost-user only, no vhost-net; give it a vhost-user port"
    if guest == "uml" and spec.mode != "server":
        return "it only connects and never listens; give it a port without mode=client"
    if guest == "uml" and ":" in os.path.abspath(spec.path):  # noqa: PTH100 - as below
        return f"{spec.path}: its command line knows no path with ':'; give the socket another one"
    return ""


def _version(given: str | None) -> qemu.Version | None:
    if given is None:
        return installed.qemu_version()
    if (version := qemu.version_in(given)) is None:
        raise UsageError(f"--qemu {given}: no version; write --qemu 7.2 or --qemu 11.1.0")
    return version


def _cuse_lines(guest: str, spec: PortSpec, memory: str) -> str:
    path, many = f"/dev/{spec.interface}", spec.queues > 1
    fds, taps = open_files(spec.queues)
    return CUSE_TEMPLATES[guest].format(
        name=spec.name,
        path=path,
        memory=memory,
        queues=spec.queues,
        mac=_mac(spec.name),
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
    """What QEMU -netdev tap takes for open device files: of a single one's tap it opens the only queue itself."""
    if len(fds) == 1:
        return f"script=no,downscript=no,vnet_hdr=off,vhostfd={fds[0]}"
    return f"fds={':'.join(map(str, taps))},vhostfds={':'.join(map(str, fds))}"


def _socket_lines(guest: str, spec: PortSpec, memory: str, version: qemu.Version | None) -> str:
    # The port in server mode listens, so the guest's side connects and connects again after a restart; else it listens.
    serves = spec.mode == "server"
    many = spec.queues > 1
    return TEMPLATES[guest].format(
        name=spec.name,
        path=os.path.abspath(spec.path),  # noqa: PTH100 - a link to the socket stays as it is
        memory=memory,
        queues=spec.queues,
        mac=spec.mac or _mac(spec.name),
        chardev=qemu.reconnect(version) if serves else "server=on,wait=off",
        netdev_queues=f",queues={spec.queues}" if many else "",
        device_queues=f",mq=on,vectors={2 * spec.queues + 2}" if many else "",
        libvirt_mode="client" if serves else "server",
        libvirt_reconnect="\n    <reconnect enabled='yes' timeout='1'/>" if serves else "",
        libvirt_queues=f"\n  <driver name='vhost' queues='{spec.queues}'/>" if many else "",
        virtio_user_mode="" if serves else ",server=1",
        virtqueues=2 * spec.queues,
        host_mtu=f",host_mtu={spec.mtu}" if spec.mtu else "",
        mtu=f",mtu={spec.mtu}" if spec.mtu else "",
        vmm_mode="client" if serves else "server",
    )


def _find(port: str, control: str | None) -> PortSpec:
    if "/" in port or ":" in port or port.split(",")[0].endswith(".sock"):
        return port_spec.parse(port)
    try:
        (about,) = control_client.understood(list, harmless(control_client.ask(control, "show", port=port)))
    except FastvhostError as error:
        raise UsageError(f"{port}: neither a path that ends in .sock nor a port of a running fwd ({error})") from None
    return PortSpec(
        about["name"],
        about["kind"],
        about.get("socket", ""),
        about.get("mode", "server"),
        about.get("queue_pairs", 1),
        about.get("device", "").removeprefix("/dev/"),
        mac=about.get("mac", ""),
        mtu=about.get("mtu") or 0,
    )


def _mac(name: str) -> str:
    """A locally administered address that differs from port to port, the same every time."""
    number = sum(byte * 31**place for place, byte in enumerate(name.encode())) & 0xFFFFFF
    return "52:54:00:" + ":".join(f"{number >> shift & 0xFF:02x}" for shift in (16, 8, 0))
