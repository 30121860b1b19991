"""One thing that `fastvhost doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """verdict: "ok"; "note", fwd works but could work better; "bad", fwd cannot work. remedy: a command, or empty."""

    verdict: str
    text: str
    remedy: str = ""
