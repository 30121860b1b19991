"""All attacks, gathered from the files that define them."""

from __future__ import annotations

from tests.hostile import attacks_frame, attacks_legal, attacks_message, attacks_receive, attacks_ring
from tests.hostile.attack import CATALOGUE

__all__ = ["CATALOGUE", "attacks_frame", "attacks_legal", "attacks_message", "attacks_receive", "attacks_ring"]
