"""Calls everything public in the package, with odd arguments and in odd orders.

A script: where a call crashes, it ends by a signal, and the file named on its command line holds that call. Run by
tests/unit/test_public_api.py, and under AddressSanitizer by tests/hostile/test_sanitized.py. It imports nothing but
fastvhost, so that it runs with the build in the current directory.

Calls may raise any exception. Objects: properly made, made by __new__ alone, made by an __init__ that failed, closed,
and those that calls return. Arguments: half of them fit the parameter's name.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import inspect
import math
import mmap
import os
import pkgutil
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import fastvhost
from fastvhost.backend import foreign_files
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping
from fastvhost.dataplane.port import NullPort, Port
from fastvhost.dataplane.ports.endpoint import Endpoint
from fastvhost.dataplane.ports.endpoint_burst import Burst
from fastvhost.dataplane.ports.packet import PacketPort
from fastvhost.dataplane.ports.pcap import Capture, PcapPort
from fastvhost.dataplane.ports.pcap_file import Player, Recorder
from fastvhost.dataplane.ports.tap import TapPort
from fastvhost.dataplane.ports.xdp import XdpPort
from fastvhost.dataplane.ports.xdp_socket import Redirect, XdpSocket
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.wire import Wire
from fastvhost.dataplane.worker import Worker
from fastvhost.driver.copy_limit import CopyLimit
from fastvhost.driver.device import GuestDevice
from fastvhost.driver.load import Load
from fastvhost.driver.ram import GuestRam
from fastvhost.driver.settings import GuestSettings

MIB = 1 << 20
POOL = 400
"""The most objects at a time."""
ADDRESS_SPACE = 8 << 30
"""Bytes. So a list of 2**31 numbers raises MemoryError and harms nothing else on this machine."""
TOO_LONG = 20
"""Seconds for one call, after which the script prints its stack and ends."""
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 14, 63, 64, 65, 255, 4096, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**63 - 1,
    2**63, -(2**63), 2**64 - 1, 2**64, 10**30, True, 0.5, -1.5, 1e300, math.nan, math.inf, -math.inf,
)  # fmt: skip
LEFT_ALONE = {"__class__", "__init_subclass__", "__subclasshook__", "__getattribute__", "__dir__", "__doc__", "__new__"}
"""Methods of Python itself, without code of this package."""
HOLDERS = ("Worker.run", "Load.run", "CopyLimit.run")
"""Methods that return only after stop(), so that they are called only after it."""
NOT_CALLED = {
    "fastvhost.__main__": "is the command line",
    "fastvhost.cli": "prints, ends the process, starts others; its parts are under control",
    "fastvhost.control.affinity": "moves any thread of this host to other cores",
    "fastvhost.control.attachment": "starts workers, which poll until the process ends where nobody closes them",
    "fastvhost.control.children": "starts processes",
    "fastvhost.control.control_client": "asks any fwd that runs on this host",
    "fastvhost.control.control_socket": "listens, and starts threads that serve until they are stopped",
    "fastvhost.control.fwd_process": "ends processes",
    "fastvhost.control.host.may_pin": "says what is wrong with its argument in a thread of its own",
    "fastvhost.control.kinds.cuse.open_files": "makes a list of as many numbers as it is told",
    "fastvhost.control.open_files.raise_limit": "changes the limits of the process",
    "fastvhost.control.open_taps": "is a script for another process, which puts a tap where a descriptor was",
    "fastvhost.control.records": "removes files",
    "fastvhost.control.runtime_dir": "makes directories in /run, and removes sockets there",
    "fastvhost.control.switch": "starts workers",
    "fastvhost.dataplane.threads": "starts threads that the interpreter waits for at its end",
    "fastvhost.driver.frontend": "connects to any socket it is given",
    "fastvhost.driver.guests": "starts workers",
    "fastvhost.driver.limit": "measures for seconds",
    "fastvhost.backend.foreign_files": "closes descriptors by their numbers, also those of others",
    "fastvhost.backend.keeper": "forks",
    "fastvhost.backend.keeper_process": "ends the process",
    "fastvhost.backend.quota": "closes descriptors by their numbers",
    "fastvhost.backend.record": "makes and removes files",
    "fastvhost.hostside": "makes and changes interfaces of this host",
    "fastvhost.vhostcuse.caller": "fetches descriptors of any process of this host",
    "fastvhost.vhostcuse.device": "makes a device of this host",
    "fastvhost.vhostcuse.guest_files": "fetches descriptors of any process of this host",
    "fastvhost.vhostcuse.service": "makes a device of this host",
    "fastvhost.vhostuser.listener": "closes descriptors that it got by number",
    "fastvhost.sockets": "makes and removes files, and starts to listen",
    "fastvhost.vhostuser.service": "starts threads that serve until they are stopped",
}
"""Modules, or names in them, that are left alone, and why."""
CUSTOM_BUILDS = {"GuestRam", "GuestDevice", "Load.latency", "Load.latency_under_load", "Recorder", "Player"}


class Script:
    """One run: a seed, a pool of objects, and the file with the current call."""

    calling = False
    """A call is being made."""

    def __init__(self, seed: int, calls: int, note: Path, directory: Path) -> None:
        self.random = Random(seed)
        self.calls = calls
        self.made = 0
        self.note = os.open(note, os.O_WRONLY | os.O_CREAT)
        self.directory = directory
        self.file = os.memfd_create("odd-calls")
        os.ftruncate(self.file, 8 * MIB)
        os.pwrite(self.file, self.random.randbytes(MIB), 0)
        self.door = Door()
        self.capture_file = directory / "a.pcap"
        Recorder(str(self.capture_file)).close()
        found = [one for module in compiled() for one in own(module, object)]
        self.plain = [one for module in plain() for one in own(module, object) if is_called(one)]
        found += self.plain
        self.classes = [one for one in found if isinstance(one, type)]
        self.functions = [one for one in found if not isinstance(one, type)]
        self.pool: list[Any] = []

    # What there is to call with

    def odd(self) -> Any:
        random = self.random
        return random.choice(
            (
                lambda: random.choice(NUMBERS),
                lambda: random.choice(NUMBERS),
                lambda: None,
                lambda: random.choice(("", "x", "a\0b", "\u00e9" * 300, "lo", "poll")),
                lambda: random.choice((b"", b"x", b"y" * 13, bytes(60), bytes(70000))),
                lambda: bytearray(random.choice((0, 1, 60, 4096))),
                lambda: memoryview(bytes(120))[::2],
                lambda: [random.choice(NUMBERS) for _ in range(random.randrange(4))],
                lambda: random.choice((object(), {}, (), [None], Ellipsis, int, lambda *_: 7)),
                lambda: random.choice(self.pool) if self.pool else None,
                lambda: random.choice(self.pool) if self.pool else None,
                lambda: half_made(random.choice(self.classes)),
            )
        )()

    def one_of(self, kind: type) -> Any:
        there = [one for one in self.pool if isinstance(one, kind)]
        return self.random.choice(there) if there else self.odd()

    def fitting(self, name: str) -> Any:
        """What a parameter of this name is likely to be."""
        random = self.random
        kinds: dict[str, type] = {
            "endpoint": Endpoint, "ingress": Port, "egress": Port, "wire": Wire, "memory": GuestMemory,
            "capture": Capture, "socket": XdpSocket, "a": GuestDevice, "b": GuestDevice, "devices": GuestDevice,
            "burst": Burst,
        }  # fmt: skip
        if name in kinds:
            return self.one_of(kinds[name])
        values: dict[str, Callable[[], Any]] = {
            "door": lambda: self.door,
            "name": lambda: "x",
            "mappings": lambda: [one for one in self.pool if isinstance(one, Mapping)][-random.randrange(1, 4) :],
            "sockets": lambda: [self.one_of(XdpSocket)],
            "fds": lambda: [self.file],
            "fd": lambda: self.file,
            "timeout": lambda: random.choice((0, 0.001)),
            "index": lambda: random.choice((0, 1, 2, 3, -1)),
            "offloads": lambda: random.choice((True, False)),
            "asked": self.odd_offload,
            "frame": lambda: bytes(60),
            "bytes": lambda: random.choice((14, 60, 64, 4096)),
            "n": lambda: random.randrange(5),
            "most": lambda: random.randrange(5),
            "hold": lambda: True,
            "hold_timeout_ms": lambda: 0,
            "shares": lambda: random.choice((1, 1, 2)),
            "share": lambda: random.choice((0, 0, 1)),
            "setup": self.setup,
            "features": lambda: random.choice((0, 1 << 32, 1 << 32 | 1 << 34, 1 << 15 | 1 << 28 | 1 << 29)),
            "queue_pairs": lambda: random.choice((1, 2)),
            "queues": lambda: random.choice((1, 2)),
            "slots": lambda: random.choice((4, 64)),
            "slot_bytes": lambda: random.choice((64, 65, 2048)),
            "ring": lambda: self.ring(),
            "block_bytes": lambda: random.choice((4096, 8192, 5000)),
            "path": lambda: str(self.capture_file),
            "guest_addr": lambda: random.choice((0, MIB, 2**63)),
            "user_addr": lambda: random.choice((0, MIB)),
            "mmap_offset": lambda: random.choice((0, 4096, 100, MIB)),
            "page": lambda: random.choice((0, 4096, 3, 2**21)),
            "until_us": lambda: -1,
        }  # fmt: skip
        return values.get(name, self.odd)()

    def odd_offload(self) -> Any:
        """Of a super-frame, with fields that may be anything, one time in two."""
        fields: list[Any] = [True, 34, 16, 1, 64, 66]
        for place in range(6 if self.random.randrange(2) else 0):
            fields[place] = self.random.choice((fields[place], self.odd()))
        return fastvhost.Offload(*fields)

    def setup(self) -> QueueSetup:
        """Of a queue that could start, most of the time."""
        random = self.random
        base = random.choice((0, 1, 0x8000, 0x80008000))
        setup = QueueSetup(random.choice((1, 4, 64, 3)), random.choice((0, 0x1000)), 0x2000, 0x3000, base)
        return setup if random.random() < 0.7 else setup._replace(**{random.choice(setup._fields): self.odd()})

    def ring(self) -> mmap.mmap:
        """Memory as a kernel's ring of packets would be, and no kernel behind it."""
        memory = mmap.mmap(-1, 4 * 4096)
        words = [self.random.choice((b"\0", b"\1", b"\xff", self.random.randbytes(1))) for _ in range(16)]
        memory[:] = b"".join(words) * 1024
        return memory

    def own_arguments(self, what: str) -> tuple[list[Any], dict[str, Any]] | None:
        """Calls that would take all memory or seconds with any argument that is odd enough."""
        random = self.random
        if what == "GuestRam":
            return [random.choice((0, 1, -1, 4096, MIB, 2**63, 2**64 - 1, 2**64, None, "x"))], {"huge": False}
        if what == "GuestDevice":
            settings: dict[str, Any] = {
                "queue_size": random.choice((-1, 0, 1, 2, 3, 4, 64, 40000)),
                "sizes": random.choice(([60], [60, 1514], [], [59], [65549], [65550], [None], iter([60, 64]), None)),
                "pieces": random.choice((0, 1, 2, 16, 17)), "content": random.choice(("none", "numbers", "whole", "x")),
                "huge": False, "queues": random.choice((0, 1, 1, 2, 129)),
            }  # fmt: skip
            usual = 1 << 32
            features = random.choice((0, usual, usual | 1 << 34, usual | 1 << 35, usual | 1 << 28, 1 << 15, 2**64))
            return [GuestSettings(**settings)], {
                "features": features, "tag": random.choice((1, 255, 256)), "peer_tag": 2,
                "peer_queues": random.choice((0, 1, 129)),
            }  # fmt: skip
        if what in ("Load.latency", "Load.latency_under_load"):
            seconds = random.choice((0, -1, math.nan, 1e-6))
            return [seconds, random.choice((0, -1, math.nan, 1e300)), random.choice((0, -1))], {}
        if what in ("Recorder", "Player"):
            return [random.choice((str(self.directory / "b.pcap"), str(self.capture_file), "", "a\0b", None, 7))], {}
        return None

    # Objects as they should be

    def add_good(self) -> None:
        """One of each kind, as far as this machine has what it needs, and wired to each other in some way."""
        random, door = self.random, self.door
        kinds: list[Callable[[], Any]] = [
            Door, lambda: NullPort("x"), lambda: Endpoint("x", door, slots=64, slot_bytes=256), lambda: Worker(door),
            lambda: TapPort("x", door), lambda: PacketPort("x", door), lambda: PcapPort("x", door), self.guest_port,
            lambda: XdpPort("x", door), lambda: GuestRam(MIB, huge=False), self.device, lambda: Capture("lo"),
            lambda: Load(self.device()), lambda: CopyLimit(self.device(), self.device()),
            lambda: Mapping(self.file, 0, MIB, 0, 0), lambda: Player(str(self.capture_file)),
            lambda: Recorder(str(self.directory / "b.pcap")), lambda: XdpSocket(1, 0, True), lambda: Redirect(1, 1),
            lambda: GuestMemory([Mapping(self.file, 0, MIB, 0, 0)]),
            lambda: Wire(self.one_of(Port), self.one_of(Port), hold=True, hold_timeout_ms=0),
            lambda: self.one_of(Endpoint).lend(random.randrange(4), 60, 0), lambda: Port(), lambda: self.sent(),
        ]  # fmt: skip
        for kind in kinds:
            with contextlib.suppress(Exception):
                self.pool.append(kind())

    def sent(self) -> Any:
        """Frames on their way from an endpoint to whatever it is wired to."""
        endpoint, worker = self.one_of(Endpoint), self.one_of(Worker)
        worker.add_wire(endpoint, self.one_of(Port), hold=True, hold_timeout_ms=0)
        endpoint.send([bytes(60)] * 3, 0)
        worker.step()
        return worker

    def device(self) -> GuestDevice:
        settings = GuestSettings(queue_size=4, sizes=(60,), content="whole", kick=False, huge=False)
        return GuestDevice(settings, features=1 << 32, tag=1, peer_tag=2)

    def guest_port(self) -> VirtioPort:
        port = VirtioPort("x", self.door)
        port.set_link(True)
        port.set_memory(GuestMemory([Mapping(self.file, 0, MIB, 0, 0)]))
        for index in range(2):
            port.start_queue(index, QueueSetup(64, 0x1000, 0x2000, 0x3000, base=0))
        return port

    # Calls

    def arguments(self, call: Any, what: str) -> tuple[list[Any], dict[str, Any]]:
        if (found := self.own_arguments(what)) is not None:
            return found
        random = self.random
        given: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in parameters(call):
            odd = random.random() < 0.3
            if parameter.default is not parameter.empty and random.random() < 0.5:
                continue
            value = self.odd() if odd else self.fitting(parameter.name)
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) or not (
                named or parameter.kind is parameter.KEYWORD_ONLY
            ):
                given.append(value)
            else:
                named[parameter.name] = value
        if random.random() < 0.1:
            given.append(self.odd())
        if random.random() < 0.05:
            given = given[:-1]
        return given, named

    def call(self, call: Any, what: str) -> None:
        """One call; what it returns is used, and joins the pool."""
        given, named = self.arguments(call, what)
        text = f"{what}(*{short(given)}, **{short(named)})"
        os.pwrite(self.note, text.encode(errors="replace")[:1000].ljust(1000), 0)
        self.made += 1
        try:
            Script.calling = True
            result = call(*given, **named)
            Script.calling = False
            if inspect.isawaitable(result):
                result.close()
                return
            if isinstance(result, Iterator):
                result = next(result)
        except Exception:  # anything but a crash is fine
            return
        finally:
            Script.calling = False
        if isinstance(result, memoryview) and len(result) and not result.readonly:
            result[0], result[-1] = 1, 2
        if type(result) in self.classes or isinstance(result, memoryview):
            self.pool.append(result)

    def use(self, one: Any) -> None:
        """A member of an object, whichever."""
        self.use_member(one, self.random.choice(members(one)))

    def use_closed(self) -> None:
        """Each member of objects that were as they should be until they were closed."""
        there = len(self.pool)
        self.add_good()
        for one in self.pool[there:]:
            with contextlib.suppress(Exception):
                one.close()
            for name in members(one) * 4:
                self.use_member(one, name)

    def use_member(self, one: Any, name: str) -> None:
        kind = type(one)
        what = f"{kind.__name__}.{name}"
        os.pwrite(self.note, what.encode().ljust(1000), 0)
        try:
            member = getattr(one, name)
        except Exception:
            return
        if what in HOLDERS:
            one.stop()
        if callable(member):
            self.call(member, what)
        elif self.random.random() < 0.2:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(one, name, self.odd())

    def run(self) -> None:
        for function in self.functions:
            for _ in range(30):
                self.call(function, function.__name__)
        for kind in self.classes:
            for _ in range(10):
                self.call(kind, kind.__name__)
            for name in dir(kind):
                if name not in LEFT_ALONE and f"{kind.__name__}.{name}" not in HOLDERS:
                    with contextlib.suppress(Exception):
                        self.call(getattr(half_made(kind), name), f"half made {kind.__name__}.{name}")
        self.use_closed()
        end = self.made + self.calls
        while self.made < end:
            if len(self.pool) < 60 or self.random.random() < 0.002:
                self.add_good()
            if self.random.random() < 0.02:
                self.call(self.random.choice(self.classes), "a class")
            if self.random.random() < 0.005:
                self.pool.append(half_made(self.random.choice(self.classes)))
            self.use(self.random.choice(self.pool))
            if len(self.pool) > POOL or self.random.random() < 0.01:
                self.random.shuffle(self.pool)
                del self.pool[self.random.randrange(len(self.pool)) :]
                gc.collect()


def members(one: Any) -> list[str]:
    """Names of what an object has, but for what every object of Python has."""
    return [name for name in dir(type(one)) if name not in LEFT_ALONE]


def half_made(kind: type) -> Any:
    """By __new__ alone; or, for the few that refuse it, nothing."""
    with contextlib.suppress(Exception):
        return kind.__new__(kind)
    return None


def short(value: object) -> str:
    try:
        return repr(value)[:300]
    except Exception:  # of something half made
        return f"a {type(value).__name__}"


def parameters(call: Any) -> list[inspect.Parameter]:
    with contextlib.suppress(ValueError, TypeError):
        return [one for one in inspect.signature(call).parameters.values() if one.name != "self"]
    return [inspect.Parameter(f"p{n}", inspect.Parameter.POSITIONAL_ONLY) for n in range(2)]


def modules() -> list[ModuleType]:
    """Every module of the package that can be imported without running it."""
    names = [one.name for one in pkgutil.walk_packages(fastvhost.__path__, "fastvhost.") if "__main__" not in one.name]
    return [importlib.import_module(name) for name in names]


def is_compiled(module: ModuleType) -> bool:
    return module.__spec__ is not None and isinstance(module.__spec__.loader, ExtensionFileLoader)


def compiled() -> list[ModuleType]:
    """Every compiled module of the package."""
    return [one for one in modules() if is_compiled(one)]


def plain() -> list[ModuleType]:
    """Every other one."""
    return [fastvhost, *(one for one in modules() if not is_compiled(one))]


def is_called(one: Any) -> bool:
    """Whether a name of a plain module is public, and harms neither process nor host."""
    whole = f"{one.__module__}.{one.__qualname__}."
    return not one.__name__.startswith("_") and not any(whole.startswith(f"{name}.") for name in NOT_CALLED)


def own(module: ModuleType, kind: type) -> list[Any]:
    """What a module defines itself and can be called."""
    found = [one for name, one in vars(module).items() if not (name.startswith("__") and name.endswith("__"))]
    return [
        one for one in found
        if isinstance(one, kind) and callable(one) and getattr(one, "__module__", None) == module.__name__
    ]  # fmt: skip


def interrupted(number: int, _frame: object) -> None:
    if Script.calling:
        raise InterruptedError(number)


def main(seed: str, calls: str, note: str) -> None:
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # whose shadow takes terabytes; it has a limit of its own
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    faulthandler.enable()
    faulthandler.dump_traceback_later(TOO_LONG * 4, exit=True)
    # What waits for frames is interrupted. (Not while an object is being let go of: that is only a line on stderr.)
    signal.signal(signal.SIGALRM, interrupted)
    # By their numbers the descriptors of everybody here would be closed, which is what was asked for.
    foreign_files.close, foreign_files.close_all = (lambda _: None), list.clear
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        script = Script(int(seed), int(calls), Path(note), Path(directory))
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        script.run()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(f"{len(script.classes)} classes, {len(script.functions)} functions, {script.made} calls")


if __name__ == "__main__":
    main(*sys.argv[1:4])
