"""A directory whose path leaves room for a socket's name: pytest's tmp_path may be longer than sun_path allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_dir() -> Iterator[Path]:
    """A new directory, removed afterwards with its contents."""
    with tempfile.TemporaryDirectory(prefix="fv-") as name:
        yield Path(name)
