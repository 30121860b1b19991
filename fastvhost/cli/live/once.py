"""`fastvhost top --once`: the same figures for scripts, all columns, numbers without prefixes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastvhost.cli.live.columns import COLUMNS, UNKNOWN, percent, plain
from fastvhost.cli.live.rows import PortRow, Reading
from fastvhost.cli.text import table

WORKERS = ("worker", "core", "busy", "sleep/s", "waiting")
DROPS = ("dropped", "port", "reason", "drop/s", "drops")


def as_text(reading: Reading, ports: Sequence[PortRow]) -> str:
    """Three tables with a line of titles each, an empty line between them; no cell is empty or has a blank."""
    rows = [[column.title for column in COLUMNS], *([column.script(row) for column in COLUMNS] for row in ports)]
    texts = "".join("l" if column.name in ("port", "kind", "link") else "r" for column in COLUMNS)
    workers = [
        (one.name, UNKNOWN if one.core is None else str(one.core), percent(one.busy), plain(one.sleep_rate),
         str(one.waiting))
        for one in reading.workers
    ]  # fmt: skip
    names = {row.name for row in ports}
    drops = [
        (one.side, one.port, one.reason, plain(one.rate), str(one.total)) for one in reading.drops if one.port in names
    ]
    return "\n\n".join((table(rows, texts), table([WORKERS, *workers], "lrrrr"), table([DROPS, *drops], "lllrr")))


def as_json(reading: Reading, ports: Sequence[PortRow]) -> str:
    """One object on one line; what is not known is null."""
    names = {row.name for row in ports}
    told: dict[str, Any] = {
        "version": reading.version,
        "uptime": reading.uptime,
        "seconds": reading.seconds,
        "ports": [asdict(row) for row in ports],
        "workers": [asdict(row) for row in reading.workers],
        "drops": [asdict(row) for row in reading.drops if row.port in names],
    }
    return json.dumps(told)
