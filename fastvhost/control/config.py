"""The configuration of `fastvhost fwd`, validated and frozen. The rest of the control plane reads nothing else.

Options come as text from the command line or as values from a TOML file, under the name of the long option. The command
line wins.
"""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvhost.control import metrics_address, policy_checks, port_keys, port_text, units
from fastvhost.control.errors import UsageError
from fastvhost.control.metrics_address import MetricsAddress
from fastvhost.control.port_spec import PortSpec

# Options whose value is a word, and their words.
WORDS = {
    "forward": ("patch", "learn"),
    "on-full": ("hold", "drop"),
    "idle": ("adaptive", "poll", "interrupt"),
}
# Every option a file may set.
OPTIONS = (
    *WORDS,
    "port",
    "wire",
    "hold-timeout",
    "idle-sleep-max",
    "cores",
    "stats-period",
    "json",
    "control",
    "control-group",
    "socket-group",
    "mac-table",
    "mac-age",
    "metrics",
)


@dataclass(frozen=True, slots=True)
class FwdConfig:
    """A whole forwarder: its ports, what is wired to what, and how it runs."""

    ports: tuple[PortSpec, ...]
    wires: tuple[tuple[str, str], ...]
    """Pairs of port names; each is two directions. None under `learn`."""
    forward: str = "patch"
    """patch: wires; learn: an Ethernet switch of all ports."""
    mac_table: int = 65536
    """Addresses that the forwarding table is made for."""
    mac_age: int = 300
    """Seconds without a frame from it after which an address is forgotten."""
    on_full: str = "hold"
    hold_timeout: float = 0.1
    cores: tuple[int, ...] = ()
    """Empty: one worker, on the core where it disturbs least."""
    idle: str = "adaptive"
    idle_sleep_max: float = 50e-6
    """The longest nap of an adaptive worker, before it sleeps until a driver kicks."""
    stats_period: float | None = None
    json: bool = False
    control: str | None = None
    control_group: str | None = None
    """Whose members may change ports and wires, beside this user and root."""
    socket_group: str | None = None
    metrics: MetricsAddress | None = None
    """Where figures are served to Prometheus; None: nowhere."""

    @property
    def unwired(self) -> tuple[str, ...]:
        """Ports without a wire. None under `learn`."""
        if self.forward == "learn":
            return ()
        wired = {name for wire in self.wires for name in wire}
        return tuple(port.name for port in self.ports if port.name not in wired)

    @property
    def directions(self) -> tuple[tuple[str, str | None], ...]:
        """Pairs of (ingress, egress or None), in the order in which workers get them."""
        ways: list[tuple[str, str | None]] = []
        if self.forward == "learn":
            ways = [(port.name, None) for port in self.ports]
        for left, right in self.wires:
            ways += [(left, right), (right, left)]
        # A guest without a wire must not hang: its frames are taken, dropped and counted as no_egress.
        ways += [(name, None) for name in self.unwired]
        # No worker is to poll a port that never sends.
        return tuple(way for way in ways if way[0] not in self._never_sends)

    @property
    def same_macs(self) -> tuple[str, ...]:
        """A sentence about each address that several ports have."""
        macs: dict[str, list[str]] = {}
        for port in self.ports:
            if port.mac:
                macs.setdefault(port.mac, []).append(port.name)
        return tuple(
            f"ports {', '.join(names)} have the same mac={mac}; guests of one network need one each"
            for mac, names in macs.items()
            if len(names) > 1
        )

    @property
    def without_wires(self) -> tuple[str, ...]:
        """A sentence about each port without a wire."""
        return tuple(
            f"port {name}: no wire joins it to another, {self.without_a_wire(name)}; give --wire {name}:OTHER"
            for name in self.unwired
        )

    def without_a_wire(self, name: str) -> str:
        """What happens with the frames of an unwired port."""
        return "no frame reaches it" if name in self._never_sends else "frames from it drop as no_egress"

    @property
    def _never_sends(self) -> set[str]:
        return {port.name for port in self.ports if port.kind.never_sends}

    @property
    def most_workers(self) -> int:
        """The most workers that get a queue pair to poll."""
        pairs = {port.name: port.queues for port in self.ports}
        return max((number + pairs[ingress] for number, (ingress, _) in enumerate(self.directions)), default=1)


def read_file(path: str) -> dict[str, object]:
    """The options of a TOML file, under the names of the long options."""
    try:
        with Path(path).open("rb") as file:
            options = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}; give a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from None
    for key in options:
        if key not in OPTIONS:
            raise UsageError(
                f"--config {path}: there is no option '{key}'; the options are {', '.join(sorted(OPTIONS))}"
            )
    return options


def build(options: Mapping[str, object]) -> FwdConfig:
    """A validated configuration from options as they were written; a value of None counts as not given."""
    given = {key: value for key, value in options.items() if value is not None}
    ports = tuple(_port(item) for item in _items("port", given.get("port", [])))
    if len(ports) < 2:
        raise UsageError("forwarding takes two ports at least; write --port a.sock --port b.sock")
    _check_ports(ports)
    control = _path("control", given.get("control"))
    items = _items("wire", given.get("wire", []))
    if not items and (len(ports) > 2 or any(port.policy.of_a_switch for port in ports)):
        given.setdefault("forward", "learn")
    words = {key: _word(key, given.get(key, choices[0])) for key, choices in WORDS.items()}
    if words["forward"] == "learn" and items:
        raise UsageError(f"--wire {items[0]}: learn joins all ports; leave --wire out, or use --forward patch")
    wires = () if words["forward"] == "learn" else _wires(ports, items)
    period = given.get("stats-period")
    if not isinstance(json := given.get("json", False), bool):
        raise UsageError(f"json = {json}: true or false")
    settings = FwdConfig(
        ports=ports,
        wires=wires,
        forward=words["forward"],
        mac_table=units.count("mac-table", given.get("mac-table", "64k"), 1024, 1 << 20),
        mac_age=round(units.duration("mac-age", given.get("mac-age", "300s"), 1, 32767)),
        on_full=words["on-full"],
        hold_timeout=units.duration("hold-timeout", given.get("hold-timeout", "100ms"), 0.001, 3600),
        cores=units.core_list(given["cores"]) if "cores" in given else (),
        idle=words["idle"],
        idle_sleep_max=units.duration("idle-sleep-max", given.get("idle-sleep-max", "50us"), 1e-6, 0.1),
        stats_period=None if period is None else units.duration("stats-period", period, 0.1, 86400),
        json=json,
        control=control,
        control_group=_optional_text("control-group", given.get("control-group")),
        socket_group=_optional_text("socket-group", given.get("socket-group")),
        metrics=metrics_address.parse(given["metrics"]) if "metrics" in given else None,
    )
    check_together(settings)
    return settings


def check_together(settings: FwdConfig) -> None:
    """Raises UsageError where ports, wires and control socket, each well by itself, do not fit together."""
    _check_ports(settings.ports)
    others = {"control": settings.control, "metrics": settings.metrics.path if settings.metrics else None}
    taken = {socket_file(port.socket): f"port '{port.name}'" for port in settings.ports if port.socket}
    for option, path in others.items():
        if path:
            if owner := taken.get(socket_file(path)):
                raise UsageError(f"--{option} {path}: {owner} has this socket; give each its own")
            taken[socket_file(path)] = f"--{option}"
    _check_macs(settings.ports, settings.wires)
    policy_checks.check(settings.ports, learn=settings.forward == "learn")


def _port(item: object) -> PortSpec:
    if isinstance(item, str):
        return port_text.parse(item)
    if isinstance(item, dict):
        return port_text.from_table(item)
    raise UsageError(f"port = {item}: neither a text such as 'vhost-user:a.sock' nor a table")


def _check_ports(ports: tuple[PortSpec, ...]) -> None:
    for name, count in Counter(port.name for port in ports).items():
        if count > 1:
            raise UsageError(f"--port: {count} ports are called '{name}'; tell them apart with name=")
    files: dict[Path, str] = {}
    for port in ports:
        if port.socket:
            file = socket_file(port.socket)
            if other := files.get(file):
                raise UsageError(
                    f"--port {port.socket}: ports '{other}' and '{port.name}' share this socket; give each its own"
                )
            files[file] = port.name


def socket_file(path: str) -> Path:
    """A path that is the same for the same file: links of the directory are followed. The socket need not exist yet."""
    # Path.resolve() raises where links form a loop.
    return Path(os.path.realpath(Path(path).parent)) / Path(path).name


def _wires(ports: tuple[PortSpec, ...], items: Sequence[object]) -> tuple[tuple[str, str], ...]:
    names = [port.name for port in ports]
    if not items:
        if len(names) % 2:
            raise UsageError(
                f"--port: {len(names)} ports, and patch pairs them 0-1, 2-3, ...: '{names[-1]}' is left over; "
                "add a port or name the pairs with --wire A:B"
            )
        return tuple(zip(names[0::2], names[1::2], strict=True))
    wires: list[tuple[str, str]] = []
    taken: dict[str, str] = {}
    for item in items:
        left, colon, right = str(item).partition(":")
        if not colon or not left or not right or left == right:
            raise UsageError(f"--wire {item}: a wire joins two ports; write --wire {names[0]}:{names[1]}")
        for name in (left, right):
            if name not in names:
                raise UsageError(f"--wire {item}: there is no port '{name}'; the ports are {', '.join(names)}")
            if name in taken:
                raise UsageError(
                    f"--wire {item}: port '{name}' is wired already by --wire {taken[name]}; a port has one wire"
                )
            taken[name] = str(item)
        wires.append((left, right))
    return tuple(wires)


def _check_macs(ports: tuple[PortSpec, ...], wires: tuple[tuple[str, str], ...]) -> None:
    """The guests at both ends of a wire are on one network, so their addresses must differ."""
    macs = {port.name: port.mac for port in ports if port.mac}
    for left, right in wires:
        if left in macs and macs[left] == macs.get(right):
            raise UsageError(
                f"--port: '{left}' and '{right}' are wired and have the same mac={macs[left]}; give each its own"
            )


def _word(option: str, value: object) -> str:
    if value not in WORDS[option]:
        raise UsageError(f"--{option} {value}: no such choice; use {' or '.join(WORDS[option])}")
    return str(value)


def _items(option: str, value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"{option} = {value}: a list is wanted; write {option} = [...]")
    return value


def _optional_text(option: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise UsageError(f"--{option} {value}: a text is wanted")
    return value


def _path(option: str, value: object) -> str | None:
    path = _optional_text(option, value)
    if path is not None:
        port_keys.socket_path(f"--{option} {path}", path)
    return path
