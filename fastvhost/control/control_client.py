"""Asks a running fwd through its control socket, and finds that socket where only one fwd runs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fastvhost.control import runtime_dir
from fastvhost.control.errors import RuntimeFailure, UsageError

# An answer takes at most a second on a machine that is not overloaded; after this, fwd is stopped or stuck.
TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 16 << 20
NOT_OURS = "the answer is not fastvhost's; name its control socket with --control"
T = TypeVar("T")


def ask(control: str | None, command: str, *, seconds: float | None = None, **arguments: object) -> Any:
    """The result of one request to the fwd at a path, or to the only one running. seconds: to wait for the answer."""
    path = Path(control) if control else find()
    seconds = TIMEOUT_SECONDS if seconds is None else seconds
    try:
        line = _exchange(path, json.dumps({"command": command, **arguments}).encode() + b"\n", seconds)
    except TimeoutError:
        raise RuntimeFailure(f"{path}: no answer in {seconds:g} s; is the process stopped?") from None
    except OSError as error:
        raise RuntimeFailure(f"{path}: {error.strerror or error}; is fastvhost fwd running there?") from error
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return answer["result"]
        reason, wrong_usage = str(answer["error"]), answer.get("exit_code") == UsageError.exit_code
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RuntimeFailure(f"{path}: {NOT_OURS}") from None
    raise UsageError(reason) if wrong_usage else RuntimeFailure(reason)


def pages(control: str | None, command: str, first: Any = None, **arguments: Any) -> Iterator[list[Any]]:
    """The rows of an answer that is asked for part by part, as long as the other end says where to go on.

    first: the first part, where it was asked for already.
    """
    path = control or str(find())
    place: int | None = 0
    while place is not None:
        answer = ask(path, command, **arguments, **{"from": place}) if first is None else first
        first = None
        rows, following = understood(_page, answer)
        if following is not None and following <= place:
            raise RuntimeFailure(NOT_OURS)
        yield rows
        place = following


def _page(answer: Any) -> tuple[list[Any], int | None]:
    following = answer["next"]
    return list(answer["rows"]), None if following is None else int(following)


def ports(control: str | None) -> list[Any]:
    """What `show` tells of every port. A fwd of an earlier version tells all at once."""
    path = control or str(find())
    first = ask(path, "show", **{"from": 0})
    return first if isinstance(first, list) else [port for page in pages(path, "show", first) for port in page]


def understood(made_of: Callable[[Any], T], answer: Any) -> T:
    """made_of(answer). Raises RuntimeFailure where the answer does not have the form of a fwd's answer."""
    try:
        return made_of(answer)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
        raise RuntimeFailure(NOT_OURS) from None


def find() -> Path:
    """The control socket of the only running fwd. Raises where there is none, or more than one."""
    alive = [path for path in runtime_dir.sockets() if _answers(path)]
    if len(alive) == 1:
        return alive[0]
    if alive:
        names = ", ".join(map(str, alive))
        raise RuntimeFailure(f"{len(alive)} fwd are running; name one of them with --control: {names}")
    raise RuntimeFailure(
        "no running fwd found; start one with fastvhost fwd, or name its control socket with --control PATH "
        "(as the user who runs it, or one of its group)"
    )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        try:
            connection.connect(os.fspath(path))
        except OSError:
            return False
    return True


def _exchange(path: Path, request: bytes, seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(os.fspath(path))
        connection.sendall(request)
        received = bytearray()
        while not received.endswith(b"\n"):
            data = connection.recv(1 << 16)
            if not data or len(received) > MAX_ANSWER_BYTES:
                raise ConnectionError("the connection ended before the answer")
            received += data
        return bytes(received)
