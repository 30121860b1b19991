"""Where the metrics of a running fwd are served: ADDR:PORT, or unix:PATH."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from fastvhost.control import port_keys
from fastvhost.control.errors import UsageError

PREFIX = "unix:"
LOOPBACK = "127.0.0.1"
OPTION = "--metrics"
ELSEWHERE = f"name another place with {OPTION} unix:PATH"


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """An IP address and a port, or the path of a socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{PREFIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: object) -> MetricsAddress:
    """Raises UsageError. Without an address the port is one of the loopback interface."""
    if not isinstance(text, str):
        raise UsageError(f"{OPTION} {text}: a text is wanted, such as '{LOOPBACK}:9464'")
    if text.startswith(PREFIX):
        path = text.removeprefix(PREFIX)
        port_keys.socket_path(f"{OPTION} {text}", path)
        return MetricsAddress(path=path)
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{OPTION} {text}: no port; write {LOOPBACK}:9464, [::1]:9464 or unix:PATH")
    return MetricsAddress(host=_address(text, host), port=int(port))


def _address(text: str, host: str) -> str:
    if not host:
        return LOOPBACK
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") and host.endswith("]") else host
    try:
        found = ipaddress.ip_address(bare)
    except ValueError:
        raise UsageError(
            f"{OPTION} {text}: '{host}' is no IP address; write {LOOPBACK}:9464, [::1]:9464 or unix:PATH"
        ) from None
    if (found.version == 6) != (bare != host):
        raise UsageError(f"{OPTION} {text}: an IPv6 address stands in brackets; write [::1]:9464")
    return str(found)
