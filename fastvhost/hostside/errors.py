"""Why a port towards this host cannot be attached: the thing, the reason and the remedy, in one line."""

from __future__ import annotations

from typing import Literal


class HostPortError(ValueError):
    """cause: "usage" (another setting helps) or "os" (the system said no)."""

    def __init__(self, text: str, cause: Literal["usage", "os"] = "os") -> None:
        super().__init__(text)
        self.cause = cause
