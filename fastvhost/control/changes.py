"""The requests at the control socket that change a running fwd, and what each does with its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastvhost.control import edits
from fastvhost.control.changeover import Edit
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import UsageError

Request = Mapping[str, Any]


def handlers(
    change: Callable[[Edit], Sequence[str]], read: Callable[[], FwdConfig] | None
) -> dict[str, Callable[[Request], list[str]]]:
    """By command: what changes a switch, and answers with a line about each change.

    change: Switch.change. read: reads the file of --config anew.
    """

    def handler(edit: Callable[[Request], Edit]) -> Callable[[Request], list[str]]:
        return lambda request: list(change(edit(request)))

    return {
        "port-add": handler(lambda request: lambda now: edits.add_port(now, _text(request, "spec"))),
        "port-del": handler(lambda request: lambda now: edits.remove_port(now, _text(request, "name"))),
        "port-set": handler(
            lambda request: lambda now: edits.set_port(now, _text(request, "name"), _text(request, "keys"))
        ),
        "wire-add": handler(lambda request: lambda now: edits.add_wire(now, _text(request, "wire"))),
        "wire-del": handler(lambda request: lambda now: edits.remove_wire(now, _text(request, "wire"))),
        "reload": handler(lambda _: reload(read)),
    }


def reload(read: Callable[[], FwdConfig] | None) -> Edit:
    """What the configuration file says now."""
    if read is None:
        raise UsageError("reload: this fwd has no configuration file; start it with --config FILE.toml")
    return lambda now: edits.reload(now, read())


def _text(request: Request, key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{request.get('command')}: {key} is missing; it is a text")
    return value
