"""One thing that `fastvhost doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """ok: fine. note: works, could be better. bad: fwd cannot work like this."""

    verdict: str
    text: str
    remedy: str = ""
