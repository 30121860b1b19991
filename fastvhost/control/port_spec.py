"""What --port says: KIND:VALUE[,key=value...], or a bare path that ends in .sock."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fastvhost.control import host_kinds, units
from fastvhost.control.errors import UsageError
from fastvhost.frontend import features
from fastvhost.vhostuser.socket_file import MAX_PATH_BYTES

MAX_QUEUE_PAIRS = 128
Mode = Literal["server", "client"]
MODES: tuple[Mode, ...] = get_args(Mode)
EXAMPLE_MAC = "52:54:00:12:34:56"
LEAST_MEMORY, MOST_MEMORY = 1 << 20, 1 << 46
"""Bytes. The most is half of the address space of a process (47 bits on x86-64)."""
MEMORY_FILES = ("kernel", "any")
GUEST_KEYS = frozenset({"queues", "memory", "memory-files"})
"""Of every kind whose other end is a guest."""
KIND_KEYS: Mapping[str, frozenset[str]] = {
    "vhost-user": GUEST_KEYS | {"mode", "without", "mac", "mtu"},
    "cuse": GUEST_KEYS,
    "tap": frozenset({"queues", "persist", "mtu", "owner", "netns"}),
    "packet": frozenset({"netns"}),
    "xdp": frozenset({"queues", "netns"}),
    "pcap": frozenset(),
    "pcap-file": frozenset({"in", "out", "loop", "timed"}),
    "null": frozenset(),
}
MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DEVICE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One port as the operator asked for it, validated."""

    name: str
    kind: str
    path: str = ""
    mode: Mode = "server"
    queues: int = 1
    interface: str = ""
    """Of a kind whose other end is an interface of this host; of cuse, the device's name in /dev."""
    options: tuple[tuple[str, str], ...] = ()
    """What only one kind knows, checked, as it was written."""
    memory: int = 0
    """Bytes of guest memory that may be mapped at once; 0 for the default, as many as this machine has."""
    any_memory_file: bool = False
    """Whether guest memory may lie on a disk's file system, beside memfd, tmpfs and hugetlbfs."""
    without: int = 0
    """Feature bits that are not offered."""
    mac: str = ""
    """Of its device, in small letters; empty where none was given."""
    mtu: int = 0
    """The largest one that its driver is told of; 0 where none was given."""

    def __str__(self) -> str:
        if self.kind == "vhost-user":
            memory = "".join(f",{key}={value}" for key, value in self._memory)
            without = f",without={'+'.join(features.names(self.without))}" if self.without else ""
            device = "".join(f",{key}={value}" for key, value in (("mac", self.mac), ("mtu", self.mtu)) if value)
            rest = f"{memory}{without}{device},name={self.name}"
            return f"{self.kind}:{self.path},mode={self.mode},queues={self.queues}{rest}"
        queues = (("queues", str(self.queues)),) if "queues" in KIND_KEYS.get(self.kind, ()) else ()
        words = (*queues, *self._memory, *self.options, ("name", self.name))
        pairs = "".join(f",{key}={value}" for key, value in words)
        return f"{self.kind}:{self.interface}{pairs if self.kind != 'pcap-file' else pairs[1:]}"

    @property
    def _memory(self) -> tuple[tuple[str, str], ...]:
        limit = (("memory", units.format_size(self.memory)),) if self.memory else ()
        return (*limit, ("memory-files", "any")) if self.any_memory_file else limit

    def option(self, key: str, default: str = "") -> str:
        """A key that only this kind knows."""
        return dict(self.options).get(key, default)


def parse(text: str) -> PortSpec:
    """A port specification from its text."""
    head, *pairs = text.split(",")
    kind, colon, value = head.partition(":")
    if (not colon or kind not in KIND_KEYS) and head.endswith(".sock"):
        kind, colon, value = "vhost-user", ":", head
    if not colon:
        raise UsageError(f"--port {text}: no kind of port; write a path ending in .sock, vhost-user:PATH or tap:NAME")
    if kind == "pcap-file" and value:
        # It has keys only: the first of them stands where other kinds have their value.
        value, pairs = "", [value, *pairs]
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, word = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--port {text}: '{pair}' is not key=value")
        if key in options:
            raise UsageError(f"--port {text}: {key}= stands twice; give it once")
        options[key] = word
    return _build(f"--port {text}", kind, value, options)


def from_table(table: Mapping[str, object]) -> PortSpec:
    """A port specification from a table of a configuration file: kind and value, or path, and the keys."""
    words = {True: "yes", False: "no"}  # as TOML has them, true and false
    rest = {key: words[value] if isinstance(value, bool) else str(value) for key, value in table.items()}
    where = "port " + ",".join(f"{key}={value}" for key, value in rest.items())
    path = rest.pop("path", "")
    value = rest.pop("value", path)
    return _build(where, rest.pop("kind", "vhost-user" if path else ""), value, rest)


def _build(where: str, kind: str, value: str, options: dict[str, str]) -> PortSpec:
    if kind not in KIND_KEYS:
        raise UsageError(f"{where}: there is no kind '{kind}'; use {' or '.join(KIND_KEYS)}")
    known = KIND_KEYS[kind] | {"name"}
    for key in options:
        if key not in known:
            raise UsageError(f"{where}: a {kind} port has no key '{key}'; it takes {', '.join(sorted(known))}")
    if kind == "null":
        if value:
            raise UsageError(f"{where}: null: takes no value; name the port with null:,name={value}")
        return PortSpec(_name(where, options.get("name", "null")), kind)
    if kind in host_kinds.CHECKS:
        host_kinds.CHECKS[kind](where, value, options)
        own = tuple((key, word) for key, word in options.items() if key not in ("name", "queues"))
        name = _name(where, options.get("name", value or _stem(options)))
        queues = _queues(where, options.get("queues", "1"))
        return PortSpec(name, kind, queues=queues, interface=value, options=own)
    if kind == "cuse":
        if not DEVICE_NAME.fullmatch(value):
            raise UsageError(f"{where}: '{value}' is no device's name; write cuse:NAME, for a file /dev/NAME")
        name, queues = _name(where, options.get("name", value)), _queues(where, options.get("queues", "1"))
        memory, any_file = _memory(where, options)
        return PortSpec(name, kind, queues=queues, interface=value, memory=memory, any_memory_file=any_file)
    check_socket_path(where, value)
    word = options.get("mode", MODES[0])
    mode = next((mode for mode in MODES if mode == word), None)
    if mode is None:
        raise UsageError(f"{where}: there is no mode '{word}'; use {' or '.join(MODES)}")
    memory, any_file = _memory(where, options)
    without = _without(where, options.get("without"))
    mtu = host_kinds.mtu(where, options["mtu"]) if "mtu" in options else 0
    if mtu and features.has(without, features.NET_F_MTU):
        raise UsageError(f"{where}: mtu= tells the driver an MTU, without=MTU forbids that; give one of them")
    return PortSpec(
        _name(where, options.get("name", Path(value).stem)),
        kind,
        value,
        mode,
        _queues(where, options.get("queues", "1")),
        memory=memory,
        any_memory_file=any_file,
        without=without,
        mac=_mac(where, options["mac"]) if "mac" in options else "",
        mtu=mtu,
    )


def check_socket_path(where: str, path: str) -> None:
    """Refuse a path that no socket can have."""
    if not path or "\0" in path:
        raise UsageError(f"{where}: no path; write the path of the socket")
    if (length := len(os.fsencode(path))) > MAX_PATH_BYTES:
        raise UsageError(
            f"{where}: the path has {length} bytes and a socket's may have {MAX_PATH_BYTES}; "
            "use a shorter directory, or start in it and give a relative path"
        )


def _stem(options: Mapping[str, str]) -> str:
    return Path(options.get("in") or options.get("out", "")).stem


def _memory(where: str, options: Mapping[str, str]) -> tuple[int, bool]:
    limit = options.get("memory")
    most = 0 if limit is None else units.size(f"{where}: memory", limit, LEAST_MEMORY, MOST_MEMORY)
    files = options.get("memory-files", MEMORY_FILES[0])
    if files not in MEMORY_FILES:
        raise UsageError(f"{where}: there is no memory-files={files}; use {' or '.join(MEMORY_FILES)}")
    return most, files == "any"


def _without(where: str, names: str | None) -> int:
    bits = 0
    offered = features.OFFERED_FEATURES
    known = {name: 1 << bit for bit, name in features.FEATURE_NAMES.items() if features.has(offered, bit)}
    for name in [] if names is None else names.split("+"):
        if name not in known:
            raise UsageError(f"{where}: without={names}: no feature '{name}' is offered; there are {', '.join(known)}")
        bits |= known[name]
    return bits


def _mac(where: str, text: str) -> str:
    """The address of one device: neither of a group nor of nobody. IEEE 802.3, section 3.2.3."""
    mac, give = text.lower(), f"give one of a device, such as {EXAMPLE_MAC}"
    if not MAC.fullmatch(text):
        raise UsageError(f"{where}: mac={text} is no address; write six pairs of digits, such as mac={EXAMPLE_MAC}")
    if int(mac[:2], 16) & 1:
        raise UsageError(f"{where}: mac={text} is the address of a group (its first byte is odd); {give}")
    if not int(mac.replace(":", ""), 16):
        raise UsageError(f"{where}: mac={text} is nobody's address; {give}")
    return mac


def _queues(where: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MAX_QUEUE_PAIRS:
        raise UsageError(f"{where}: queues={text} is not a number of queue pairs from 1 to {MAX_QUEUE_PAIRS}")
    return int(text)


def _name(where: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{where}: '{name}' cannot be a port's name; add name= with letters, digits, '_', '.' or '-'")
    return name
