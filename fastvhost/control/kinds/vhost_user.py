"""vhost-user:PATH, a guest whose front-end speaks vhost-user at a socket."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from fastvhost.backend import features, qemu
from fastvhost.control import control_client, port_keys, runtime_dir, socket_place
from fastvhost.control.errors import FastvhostError, UsageError
from fastvhost.control.finding import Finding
from fastvhost.control.policy import Policy
from fastvhost.control.port_parts import AnyPort, Service
from fastvhost.control.port_spec import Keys, Kind, Options, PortSpec

Mode = Literal["server", "client"]
MODES: tuple[Mode, ...] = get_args(Mode)

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

# User-mode Linux keeps its memory in a file in TMPDIR. The file can be shared if TMPDIR is on a memory file system.
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


def earlier_guests() -> Finding:
    """Guests of running fwds that use feature bits of an earlier version."""
    ports = []
    for path in runtime_dir.sockets():
        with contextlib.suppress(FastvhostError):
            for about in control_client.ports(str(path)):
                with contextlib.suppress(LookupError, TypeError, AttributeError):
                    if about["kind"] == VhostUser.name and "RING_RESET" in about["features"]:
                        ports.append(str(about["name"]))
    if not ports:
        return Finding("ok", "no guest of a running fwd has RING_RESET from an earlier fwd")
    return Finding(
        "note",
        f"guests at {', '.join(ports)} have RING_RESET from an earlier fwd: ethtool -G in them ends their network",
        "start their QEMU anew when it suits; a reboot within the guest is not enough",
    )


class VhostUser(Kind):
    """A guest behind a socket."""

    name, place = "vhost-user", 10
    usage = (
        "vhost-user:PATH[,mode=server|client][,queues=N][,memory=N][,memory-files=any]\n"
        "               [,without=FEATURE+...][,mac=MAC][,mtu=N]"
    )
    keys = (*port_keys.OF_GUESTS, "mode", "without", "mac", "mtu")
    bare_suffix = ".sock"
    value_is_a_socket = True
    findings = (earlier_guests,)
    guests = tuple(TEMPLATES)

    def read(self, where: str, value: str, options: Options) -> Keys:
        """The socket's path; who listens there, and what the guest is offered."""
        port_keys.socket_path(where, value)
        mode = options.get("mode", MODES[0])
        if mode not in MODES:
            raise UsageError(f"{where}: there is no mode '{mode}'; use {' or '.join(MODES)}")
        keys: Keys = (("mode", mode), *port_keys.queues(where, options), *port_keys.memory(where, options))
        without = port_keys.without(where, options["without"]) if "without" in options else 0
        mtu = port_keys.mtu(where, options["mtu"]) if "mtu" in options else 0
        if mtu and features.has(without, features.NET_F_MTU):
            raise UsageError(f"{where}: mtu= tells the driver an MTU, without=MTU forbids that; give one of them")
        if without:
            keys = (*keys, ("without", "+".join(features.names(without))))
        if "mac" in options:
            keys = (*keys, ("mac", port_keys.mac(where, options["mac"])))
        return (*keys, ("mtu", str(mtu))) if mtu else keys

    def default_name(self, value: str, options: Options) -> str:  # noqa: ARG002
        """After the socket's file."""
        return Path(value).stem

    def check_host(self, spec: PortSpec) -> tuple[str, ...]:
        """Whether the socket can be made there, or reached."""
        return socket_place.check(Path(spec.value), _serves(spec), "choose another path")

    def make_port(self, spec: PortSpec, door: Any) -> AnyPort:
        """A data plane port with virtqueues."""
        from fastvhost.backend import foreign_files
        from fastvhost.dataplane.virtio_port import VirtioPort
        from fastvhost.vhostuser.service import promised_pairs

        return VirtioPort(spec.name, door, promised_pairs(spec.queues), close_fd=foreign_files.close)

    def make_service(self, spec: PortSpec, port: Any, socket_group: str | None) -> Service:
        """The service that speaks vhost-user at its socket."""
        from fastvhost.control import records
        from fastvhost.vhostuser.service import DeviceSettings, VhostUserService

        without, mtu = spec.option("without"), spec.option("mtu")
        return VhostUserService(
            spec.value,
            port,
            mode="server" if _serves(spec) else "client",
            socket_group=socket_group,
            most_memory=port_keys.most_memory(spec),
            any_memory_file=port_keys.any_memory_file(spec),
            without=port_keys.without(str(spec), without) if without else 0,
            queue_pairs=spec.queues,
            device=DeviceSettings(bytes.fromhex(spec.mac.replace(":", "")), int(mtu or 0)),
            keep_record=functools.partial(records.keep, beside=_serves(spec)),
        )

    def describe(self, spec: PortSpec) -> dict[str, Any]:
        """The socket's path, and who listens there."""
        path = str(Path(spec.value).absolute())
        return {"socket": path, "mode": spec.option("mode"), "queue_pairs": spec.queues}

    def from_description(self, about: Mapping[str, Any]) -> PortSpec:
        """With everything that a guest's lines depend on."""
        keys: Keys = (("mode", about.get("mode", MODES[0])), ("queues", str(about.get("queue_pairs", 1))))
        device = tuple((key, str(about[key])) for key in ("mac", "mtu") if about.get(key))
        return PortSpec(self, about["socket"], Policy(about["name"]), (*keys, *device))

    def example(self, guest: str, spec: PortSpec, memory: str, version: qemu.Version | None) -> str:
        """Where the port listens, the guest connects, and connects again after a restart; else the guest listens."""
        path = os.path.abspath(spec.value)  # noqa: PTH100 - a link to the socket stays as it is
        serves, many, mtu = _serves(spec), spec.queues > 1, spec.option("mtu")
        if guest == "uml" and not serves:
            raise UsageError(f"{guest}: it only connects and never listens; give it a port without mode=client")
        if guest == "uml" and ":" in path:
            remedy = "give the socket another one"
            raise UsageError(f"{guest}: {spec.value}: its command line knows no path with ':'; {remedy}")
        return TEMPLATES[guest].format(
            name=spec.name,
            path=path,
            memory=memory,
            queues=spec.queues,
            mac=spec.mac or port_keys.guest_mac(spec.name),
            chardev=qemu.reconnect(version) if serves else "server=on,wait=off",
            netdev_queues=f",queues={spec.queues}" if many else "",
            device_queues=f",mq=on,vectors={2 * spec.queues + 2}" if many else "",
            libvirt_mode="client" if serves else "server",
            libvirt_reconnect="\n    <reconnect enabled='yes' timeout='1'/>" if serves else "",
            libvirt_queues=f"\n  <driver name='vhost' queues='{spec.queues}'/>" if many else "",
            virtio_user_mode="" if serves else ",server=1",
            virtqueues=2 * spec.queues,
            host_mtu=f",host_mtu={mtu}" if mtu else "",
            mtu=f",mtu={mtu}" if mtu else "",
            vmm_mode="client" if serves else "server",
        )

    def remark(self, guest: str, spec: PortSpec, version: qemu.Version | None) -> str:
        """Which QEMU the lines are for, or what the operator must do for this guest."""
        if guest == "uml":
            own = (
                f"its address is {spec.mac}"
                if spec.mac
                else "give the port mac=, or its address is another at each boot"
            )
            return f"{own}; it connects once, at its boot: start fwd first, and after fwd the guest anew"
        if guest == "cloud-hypervisor":
            return (
                "when fwd ends, it must be back within 60 s: after that the interface is off until the VM starts anew"
            )
        if guest != "qemu" or not _serves(spec):
            return ""
        if version is None:
            return "these lines are for QEMU 9.2 and newer; for an older one add --qemu VERSION"
        if version == qemu.ABORTS:
            return f"{qemu.named(version)} aborts where nobody listens yet: start fwd first"
        return f"these lines are for {qemu.named(version)}; for another one add --qemu VERSION"


def _serves(spec: PortSpec) -> bool:
    """Whether it listens, and the front-end connects."""
    return spec.option("mode") == "server"


KIND = VhostUser()
