"""Changes that an administrator makes to a guest's network card under traffic: it must go on, or the change be refused.

usage: python -m bench.by_hand [--qemu installed|newest] [--packed] [NAME...]

A QEMU guest boots by iPXE from another guest, one under user-mode Linux, with fwd between the two. Then each thing is
done while both ping each other, and afterwards every ping has to be answered again. "newest" is the QEMU of Debian
testing, 11.1 or newer, which scripts/newest-peers fetches once.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bench.ending import end_on_signals
from bench.guests.agent import CommandFailed
from bench.guests.fwd import Fwd
from bench.guests.pair import HOLDS
from bench.guests.qemu import CARD, SLOT, Guest, Machine, Qemu, guest_image, newest_qemu
from bench.guests.short_dir import short_dir
from bench.guests.uml import UmlGuest, UmlMachine
from bench.guests.waits import wait_until

PAIRS = 2
PINGS = 20
MAX_WAIT = 60.0
"""Seconds for what takes almost no time on an idle machine."""
BOOT_MAX_WAIT = 600.0
IPXE_SCRIPT = """\
#!ipxe
kernel http://{server}/vmlinuz {words}
initrd http://{server}/initramfs
boot
"""
DHCP_SETTINGS = """\
start 10.0.0.100
end 10.0.0.101
interface eth0
lease_file /tmp/leases
pidfile /tmp/udhcpd.pid
option subnet 255.255.255.0
static_lease {mac} {address}
boot_file http://{server}/boot.ipxe
"""
ROUTER = """
import contextlib, socket, time
advertisement = bytes((134, 0, 0, 0, 64)) + bytes(11)  # RFC 4861, section 4.2: a router that routes nothing
sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
while True:
    time.sleep(0.5)
    with contextlib.suppress(OSError):  # its own address is not ready yet
        sender.sendto(advertisement, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))
"""
"""Without a router iPXE waits fifteen seconds for one, whatever DHCP says."""
CARD_IN_GUEST = "$(readlink -f /sys/class/net/eth0/device/..)"


class Refused(Exception):
    """The guest's command was refused. The text is the error that it printed."""


class Scene:
    """fwd, a QEMU guest on its port a, and another guest on b, from which a boots."""

    def __init__(self, directory: Path, qemu: Qemu, device: str = "") -> None:
        """device: more properties of the network card."""
        self.directory = directory
        self.machine = Machine(
            "a", directory / "a.sock", 1, queue_pairs=PAIRS, device=device,
            qemu=qemu, from_network=True, pluggable=True,
        )  # fmt: skip
        other = UmlMachine("b", directory / "b.sock", 2)
        with contextlib.ExitStack() as stack:
            self.fwd = stack.enter_context(Fwd(directory, [self.machine.port, other.port], HOLDS))
            self.b = stack.enter_context(UmlGuest(other, directory)).wait_ready(BOOT_MAX_WAIT)
            self._serve_boot()
            self.a = stack.enter_context(Guest(self.machine, directory))
            self._skip_prompts()
            self.a.wait_ready(BOOT_MAX_WAIT)
            self.booted_bytes = int(self.fwd.stats()["ports"]["b"]["rx_bytes"])
            self.b.run("killall udhcpd httpd; kill $(cat /tmp/router)")
            for guest in (self.a, self.b):
                # Asking for an address ends after three seconds, which a busy machine may take.
                guest.run(
                    "cd /proc/sys/net/ipv4/neigh; for of in eth0 default; do echo 60 | tee $of/?cast_solicit; done"
                )
            self._stack = stack.pop_all()

    def _serve_boot(self) -> None:
        """Serve files and addresses on b's network."""
        server, files = self.b.address, self.directory
        for source, name in zip(guest_image(), ("vmlinuz", "initramfs"), strict=True):
            shutil.copy(source, files / name)
        mac = f"52:54:00:00:00:{self.machine.number:02x}"
        (files / "boot.ipxe").write_text(IPXE_SCRIPT.format(server=server, words=self.machine.kernel_words))
        settings = DHCP_SETTINGS.format(mac=mac, address=self.machine.address, server=server)
        (files / "udhcpd.conf").write_text(settings)
        (files / "router.py").write_text(ROUTER)
        self.b.run("touch /tmp/leases; httpd -h /run/shared; udhcpd /run/shared/udhcpd.conf > /dev/null 2>&1")
        # Not the one of a virtual environment: that may be below /tmp, where the guest has files of its own.
        python = Path(sys.executable).resolve()
        self.b.run(f"{python} /run/shared/router.py > /run/shared/router.log 2>&1 & echo $! > /tmp/router")

    def _skip_prompts(self) -> None:
        """iPXE waits twice for a key, some seconds each; any but Ctrl-B makes it go on."""

        def asks_for_an_address() -> bool:
            if not self.a.monitor_path.exists():
                return False
            self.a.monitor("send-key", keys=[{"type": "qcode", "data": "spc"}])
            return int(self.fwd.stats()["ports"]["a"]["rx_frames"]) > 0

        wait_until("iPXE asks the network", BOOT_MAX_WAIT, asks_for_an_address)

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """Both guests ping each other all the time, also while frames cannot pass."""
        for guest, how, other in ((self.b, "-A", self.a), (self.a, "-i 0.01", self.b)):
            ping = f"ping {how} -q -c 1000 -W 1 {other.address}"
            guest.run(f"(while :; do {ping}; sleep 0.1; done) > /dev/null 2>&1 & echo $! > /tmp/traffic", MAX_WAIT)
        try:
            yield
        finally:
            for guest in (self.a, self.b):
                guest.run("kill $(cat /tmp/traffic); killall ping 2> /dev/null; true", MAX_WAIT)

    def ask(self, command: str) -> str:
        """The output of a command in the guest. Raises Refused where it fails."""
        try:
            return self.a.run(command, MAX_WAIT).strip()
        except CommandFailed as error:
            raise Refused(str(error).rpartition(": ")[2].strip()) from error

    def set_up(self) -> None:
        """Set the interface, which may be a new one, up as after the boot."""
        self.a.run(
            "until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done; "
            "ip link set eth0 mtu $guest_mtu up; ip address add $guest_address dev eth0 2> /dev/null; true",
            MAX_WAIT,
        )

    def check(self) -> None:
        """Check that every ping is answered, no ring is broken, and fwd logged no warning."""
        for sender, receiver in ((self.a, self.b), (self.b, self.a)):
            answered = sender.ping(receiver, PINGS, max_wait=5)
            assert answered == PINGS, f"{answered} of {PINGS} pings of {sender.name} were answered"
        broken = [ring["broken"] for port in "ab" for ring in self.fwd.show(port)["rings"] if ring["broken"]]
        assert not broken, broken
        assert not self.fwd.warnings(), self.fwd.warnings()

    def card_is_in(self) -> bool:
        """Whether the card is plugged in."""
        return any(one["name"] == CARD for one in self.a.ask_monitor("qom-list", path="/machine/peripheral"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


# The changes. Each returns the result as text, or raises Refused, and then nothing has changed.


def boot_by_ipxe(scene: Scene) -> str:
    """The guest booted over the network."""
    kernel = Path(guest_image()[0]).stat().st_size
    assert scene.booted_bytes > kernel, f"{scene.booted_bytes} bytes came from b"
    return f"{scene.booted_bytes >> 20} MiB from the other guest"


def ring_size(scene: Scene, ring: str) -> str:
    before = scene.ask("ethtool -g eth0")
    try:
        return scene.ask(f"ethtool -G eth0 {ring} 128")
    except Refused:
        assert scene.ask("ethtool -g eth0") == before
        raise


def channels(scene: Scene) -> str:
    said = [scene.ask(f"ethtool -L eth0 combined {pairs}") for pairs in (1, PAIRS)]
    assert said == [f"{pairs} of {PAIRS}" for pairs in (1, PAIRS)]
    return ", then ".join(said)


def software_offload(scene: Scene) -> str:
    off, on = scene.ask("ethtool -K eth0 gro off"), scene.ask("ethtool -K eth0 gro on")
    assert "gro" not in off.split()
    assert "gro" in on.split()
    return f"off and on; then on: {on}"


def hardware_offload(scene: Scene) -> str:
    off, on = scene.ask("ethtool -K eth0 tso off"), scene.ask("ethtool -K eth0 tso on")
    assert "tso" not in off.split()
    assert "tso" in on.split()
    return f"off and on; then on: {on}"


def mtu(scene: Scene) -> str:
    for size in (1400, 9000):
        scene.ask(f"ip link set eth0 mtu {size}")
        # Some are lost beside all other traffic, by a guest that is emulated.
        wait_until("a ping of that size is answered", MAX_WAIT, partial(scene.a.ping, scene.b, 1, bytes=size - 28))
    return "1400, then 9000"


def link(scene: Scene) -> str:
    scene.ask("ip link set eth0 down")
    scene.ask("ip link set eth0 up")
    return "down, then up"


def rebind(scene: Scene, bus: str, device: str) -> str:
    """Unbind and bind the driver of its device on this bus."""
    device = scene.ask(f"readlink -f /sys/class/net/eth0/{device}")
    driver = scene.ask(f"readlink -f {device}/driver")
    scene.ask(f"echo {Path(device).name} > {driver}/unbind")
    assert "eth0" not in scene.ask("ls /sys/class/net")
    scene.ask(f"echo {Path(device).name} > {driver}/bind")
    return f"{Path(driver).name} of {Path(device).name}, {bus}"


def reload_module(scene: Scene) -> str:
    scene.ask("rmmod virtio_net && insmod /modules/virtio_net.ko")
    return "virtio_net"


def rescan(scene: Scene) -> str:
    scene.ask(f"echo 1 > {CARD_IN_GUEST}/remove")
    assert "eth0" not in scene.ask("ls /sys/class/net")
    scene.ask("echo 1 > /sys/bus/pci/rescan")
    return "removed, then found again"


def suspend_to_ram(scene: Scene) -> str:
    """S3. QEMU wakes it up."""
    with ThreadPoolExecutor(1) as pool:
        # What is sent to its serial port before it is awake is lost; so it says itself that it is.
        slept = pool.submit(scene.a.run, "echo mem > /sys/power/state", MAX_WAIT)
        wait_until("a sleeps", MAX_WAIT, lambda: scene.a.ask_monitor("query-status")["status"] == "suspended")
        scene.a.monitor("system_wakeup")
        slept.result()
    return "slept, then woke up"


def hot_unplug(scene: Scene) -> str:
    scene.a.monitor("device_del", id=CARD)
    wait_until("the guest lets go of the card", MAX_WAIT, lambda: not scene.card_is_in())
    assert "eth0" not in scene.ask("ls /sys/class/net")
    words = dict(word.split("=", 1) for word in scene.machine.device_words)
    values = {name: {"on": True, "off": False}.get(word, int(word) if word.isdecimal() else word)
              for name, word in words.items()}  # fmt: skip
    scene.a.monitor("device_add", driver=scene.machine.kind, **values)
    return f"out of {SLOT}, then in again"


class Action(NamedTuple):
    """One change. refused: the guest's command must fail."""

    name: str
    do: Callable[[Scene], str]
    refused: bool = False


ACTIONS = (
    Action("boot by iPXE", boot_by_ipxe),
    Action("ethtool -G rx", lambda scene: ring_size(scene, "rx"), refused=True),
    Action("ethtool -G tx", lambda scene: ring_size(scene, "tx"), refused=True),
    Action("ethtool -L", channels),
    Action("ethtool -K gro", software_offload),
    Action("ethtool -K tso", hardware_offload),
    Action("ip link set mtu", mtu),
    Action("ip link set down and up", link),
    Action("unbind and bind", lambda scene: rebind(scene, "virtio", "device")),
    Action("unbind and bind the PCI device", lambda scene: rebind(scene, "PCI", "device/..")),
    Action("rmmod and insmod", reload_module),
    Action("remove and rescan", rescan),
    Action("hot-unplug and plug", hot_unplug),
    Action("suspend to RAM", suspend_to_ram),  # the last one: afterwards this guest lets go of no card any more
)


def carry_out(scene: Scene, action: Action) -> str:
    """Make the change under traffic, which must go on. Returns the result. Raises AssertionError."""
    with scene.traffic():
        try:
            told, refused = action.do(scene), False
        except Refused as words:
            told, refused = f"told no: {words}", True
        scene.set_up()
        scene.b.wait_answer(scene.a, MAX_WAIT)
    scene.check()  # without other traffic: a guest that is emulated loses frames where it is short of time
    assert refused == action.refused, f"{action.name}: {told}"
    return told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.by_hand", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--qemu", choices=("installed", "newest"), default="installed")
    parser.add_argument("--packed", action="store_true", help="packed rings")
    names = [action.name for action in ACTIONS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(names)}; default all")
    o = parser.parse_args()
    if unknown := [name for name in o.names if name not in names]:
        parser.error(f"'{unknown[0]}' is none of: {', '.join(names)}")
    end_on_signals("by_hand")
    failed = 0
    qemu = newest_qemu() if o.qemu == "newest" else Qemu()
    with short_dir() as directory, Scene(directory, qemu, "packed=on" if o.packed else "") as scene:
        for action in ACTIONS:
            if o.names and action.name not in o.names:
                continue
            start = time.monotonic()
            try:
                told = carry_out(scene, action)
            except AssertionError as error:
                failed += 1
                shown = (f"{title}:\n{text}" for title, text in (scene.fwd.report() | scene.a.report()).items())
                told = f"FAILED: {error}\n{chr(10).join(shown)}"
            print(f"{time.monotonic() - start:6.1f} s  {action.name:32} {told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
