"""Brings a running switch from one configuration to another: ports and wires, all of it or nothing.

New ports are opened and served first; then the workers' lanes change, all at once; then ports that left are closed;
then ports that stay do as their policies say now. A port whose SPEC differs in more than that is removed and made anew.
Where that is at the same socket, it is closed before its successor is opened, and put back if this one cannot be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastvhost.control import config as configuration
from fastvhost.control import edits, open_files
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.port_spec import PortSpec
from fastvhost.control.port_unit import PortUnit
from fastvhost.control.wiring import Wiring
from fastvhost.dataplane.door import WorkerStuckError

log = logging.getLogger("fastvhost")


Edit = Callable[[FwdConfig], FwdConfig]
"""Makes another configuration of the present one. Raises UsageError."""


def change(wiring: Wiring, edit: Edit) -> tuple[str, ...]:
    """Put an edited configuration into effect. Only its ports and wires may differ. Returns a line about each change.

    From any thread. Raises UsageError or RuntimeFailure; then the switch is as it was.
    """
    with wiring.changing():
        old = wiring.config
        new = edit(old)
        _bring(wiring, old, new)
        lines = edits.differences(old, new)
    for line in lines:
        log.info("%s", line)
    return lines


def _bring(wiring: Wiring, old: FwdConfig, new: FwdConfig) -> None:
    specs = {spec.name: spec for spec in new.ports}
    stay = [
        unit
        for unit in wiring.ports
        if unit.spec.name in specs and unit.spec.is_but_for_policy(specs[unit.spec.name])
    ]
    come = [spec for spec in new.ports if spec.name not in {unit.spec.name for unit in stay}]
    sockets = {_socket(spec) for spec in come} - {None}
    first = [unit for unit in wiring.ports if unit not in stay and _socket(unit.spec) in sockets]
    _check_host(come, {_socket(unit.spec) for unit in first})
    for warning in open_files.check(new, open_files.raise_limit()):
        log.warning("%s", warning)
    with contextlib.ExitStack() as undo:
        there = old
        if first:
            there = _without(old, first)
            _exchange(wiring, [unit for unit in wiring.ports if unit not in first], there)
            undo.callback(lambda: _add(wiring, list(wiring.ports), [unit.spec for unit in first], old))
        gone = [unit for unit in wiring.ports if unit not in stay]
        undo.callback(_enforce, wiring, wiring.let_go(specs))
        if come or gone or there.wires != new.wires:
            _add(wiring, stay, come, new)
            undo.callback(lambda: _add(wiring, stay, [unit.spec for unit in gone], there))
        if changed := {unit.spec.name: specs[unit.spec.name] for unit in stay if unit.spec != specs[unit.spec.name]}:
            _set_policies(wiring, changed, new)
        undo.pop_all()


def _enforce(wiring: Wiring, names: Sequence[str]) -> None:
    for unit in wiring.ports:
        if unit.spec.name in names:
            wiring.enforce(unit.spec.policy)


def _set_policies(wiring: Wiring, changed: Mapping[str, PortSpec], settings: FwdConfig) -> None:
    try:
        wiring.set_policies(changed, settings)
    except WorkerStuckError as error:
        raise RuntimeFailure(f"{error}; nothing was changed, try again") from error


def _socket(spec: PortSpec) -> Path | None:
    return configuration.socket_file(spec.socket) if spec.socket else None


def _without(settings: FwdConfig, units: Sequence[PortUnit]) -> FwdConfig:
    names = {unit.spec.name for unit in units}
    return dataclasses.replace(
        settings,
        ports=tuple(port for port in settings.ports if port.name not in names),
        wires=tuple(wire for wire in settings.wires if not names & set(wire)),
    )


def _check_host(come: Sequence[PortSpec], becomes_free: set[Path | None]) -> None:
    """Raises UsageError where a new port cannot work here."""
    for spec in come:
        if not spec.socket or _socket(spec) not in becomes_free:
            for said in spec.kind.check_host(spec):
                raise UsageError(said)


def _add(wiring: Wiring, stay: Sequence[PortUnit], come: Sequence[PortSpec], settings: FwdConfig) -> None:
    """Make ports of these specs, and have only these and `stay`."""
    made: list[PortUnit] = []
    try:
        with wiring.refusing():
            for spec in come:
                made.append(wiring.make_unit(_free_number([*wiring.ports, *wiring.unended, *made]), spec))
                if service := made[-1].service:
                    service.open()
                    service.start()
        _exchange(wiring, sorted([*stay, *made], key=lambda unit: unit.number), settings)
    except BaseException:
        for unit in made:
            wiring.end(unit)
        raise


def _free_number(units: Sequence[PortUnit]) -> int:
    taken = {unit.number for unit in units}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def _exchange(wiring: Wiring, units: Sequence[PortUnit], settings: FwdConfig) -> None:
    """Have these ports, wired as the settings say, and end the others. Raises RuntimeFailure; then nothing changed."""
    gone = [unit for unit in wiring.ports if unit not in units]
    try:
        wiring.rewire(tuple(units), settings)
    except WorkerStuckError as error:
        raise RuntimeFailure(f"{error}; nothing was changed, try again") from error
    for unit in gone:
        wiring.end(unit)
