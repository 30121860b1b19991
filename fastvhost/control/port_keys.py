"""Checks of the keys of --port that several kinds of port take."""

from __future__ import annotations

from fastvhost.backend import features
from fastvhost.control import mac_address, units
from fastvhost.control.errors import UsageError
from fastvhost.control.port_spec import Keys, Options, PortSpec
from fastvhost.hostside import namespaces
from fastvhost.hostside.interfaces import name_problem
from fastvhost.sockets.socket_file import path_fault

MAX_QUEUE_PAIRS = 128
LEAST_MTU, MOST_MTU = 68, 65535
LEAST_MEMORY, MOST_MEMORY = 1 << 20, 1 << 46
"""Bytes. The largest is half of the address space of a process (47 bits on x86-64)."""
MEMORY_FILES = ("kernel", "any")
YES_NO = {"yes": True, "no": False}
OF_GUESTS = ("queues", "memory", "memory-files")
"""The keys of every kind whose other end is a guest."""


def as_written(options: Options, *keys: str) -> Keys:
    """Those of these keys that were given, in their order on the command line."""
    return tuple((key, value) for key, value in options.items() if key in keys)


def queues(where: str, options: Options) -> Keys:
    """queues=, the number of queue pairs."""
    text = options.get("queues", "1")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MAX_QUEUE_PAIRS:
        raise UsageError(f"{where}: queues={text} is not a number of queue pairs from 1 to {MAX_QUEUE_PAIRS}")
    return (("queues", str(int(text))),)


def yes_no(where: str, options: Options, *keys: str) -> None:
    """Keys that say yes or no."""
    for key in keys:
        if options.get(key, "no") not in YES_NO:
            raise UsageError(f"{where}: {key}={options[key]} is neither yes nor no")


def is_yes(spec: PortSpec, key: str) -> bool:
    """Whether a yes-or-no key is yes; False where it was not given."""
    return YES_NO[spec.option(key, "no")]


def mtu(where: str, text: str) -> int:
    """Bytes."""
    if not text.isascii() or not text.isdecimal() or not LEAST_MTU <= int(text) <= MOST_MTU:
        raise UsageError(f"{where}: mtu={text} is not a number of bytes from {LEAST_MTU} to {MOST_MTU}")
    return int(text)


def interface(where: str, name: str, options: Options) -> None:
    """An interface of this host, and netns=, the network namespace that it is in."""
    if problem := name_problem(name):
        raise UsageError(f"{where}: {problem}")
    if (netns := options.get("netns")) is not None and (problem := namespaces.problem(netns)):
        raise UsageError(f"{where}: netns={netns}: {problem}")


def memory(where: str, options: Options) -> Keys:
    """memory= and memory-files= of a guest."""
    keys: Keys = ()
    if (limit := options.get("memory")) is not None:
        keys = (("memory", units.format_size(_memory_bytes(where, limit))),)
    files = options.get("memory-files", MEMORY_FILES[0])
    if files not in MEMORY_FILES:
        raise UsageError(f"{where}: there is no memory-files={files}; use {' or '.join(MEMORY_FILES)}")
    return (*keys, ("memory-files", files)) if files != MEMORY_FILES[0] else keys


def most_memory(spec: PortSpec) -> int:
    """Bytes of guest memory that may be mapped at once; 0 for the default, as many as this machine has."""
    limit = spec.option("memory")
    return _memory_bytes(str(spec), limit) if limit else 0


def any_memory_file(spec: PortSpec) -> bool:
    """Whether guest memory may lie on a disk's file system, beside memfd, tmpfs and hugetlbfs."""
    return spec.option("memory-files") == "any"


def _memory_bytes(where: str, limit: str) -> int:
    return units.size(f"{where}: memory", limit, LEAST_MEMORY, MOST_MEMORY)


def without(where: str, names: str) -> int:
    """without=, the feature bits that are not offered: those, and others that require them."""
    bits = 0
    offered = features.OFFERED_FEATURES
    known = {name: 1 << bit for bit, name in features.FEATURE_NAMES.items() if features.has(offered, bit)}
    for name in names.split("+"):
        if name not in known:
            raise UsageError(f"{where}: without={names}: no feature '{name}' is offered; there are {', '.join(known)}")
        bits |= known[name]
    return features.with_what_requires(bits)


def mac(where: str, text: str) -> str:
    """mac=, the address of one device: not a group address, not all zeros."""
    return mac_address.of_one_device(where, "mac", text)


def socket_path(where: str, path: str) -> None:
    """A path that a socket can have."""
    if fault := path_fault(path):
        raise UsageError(f"{where}: {fault}")


def guest_mac(name: str) -> str:
    """A locally administered MAC for the guest of the port of this name: always the same, and another for each name."""
    number = sum(byte * 31**place for place, byte in enumerate(name.encode())) & 0xFFFFFF
    return "52:54:00:" + ":".join(f"{number >> shift & 0xFF:02x}" for shift in (16, 8, 0))
