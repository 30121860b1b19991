"""All attacks, gathered from the files that define them."""

from __future__ import annotations

from tests.hostile import (
    attacks_costly,
    attacks_fds,
    attacks_frame,
    attacks_legal,
    attacks_memory,
    attacks_merge,
    attacks_message,
    attacks_receive,
    attacks_ring,
    attacks_sustained,
)
from tests.hostile.attack import CATALOGUE

SOURCES = (
    attacks_ring,
    attacks_receive,
    attacks_frame,
    attacks_legal,
    attacks_message,
    attacks_fds,
    attacks_memory,
    attacks_merge,
    attacks_costly,
    attacks_sustained,
)

__all__ = ["CATALOGUE", "SOURCES"]
