"""Why a request, a front-end or a port is refused: one exception each, with one sentence for the log or the user."""

from __future__ import annotations

from typing import Literal


class ProtocolError(Exception):
    """The front-end broke the protocol. The text is one sentence for the log."""


class SessionEndError(Exception):
    """The front-end must go. The text says why, in one sentence."""


class ServiceError(ValueError):
    """A port cannot be opened. cause: "usage" (another setting helps) or "os" (the system said no)."""

    def __init__(self, text: str, cause: Literal["usage", "os"] = "usage") -> None:
        super().__init__(text)
        self.cause = cause
