"""The file of --config: its options, checked together with those of the command line; errors name file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fastvhost.control import config
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import UsageError


def build(path: str, given: Mapping[str, object]) -> FwdConfig:
    """A validated configuration from a file and what the command line gives, which wins."""
    from_file = config.read_file(path)
    try:
        return config.build({**from_file, **given})
    except UsageError as error:
        used = {key: value for key, value in from_file.items() if key not in given}
        about = re.match(r"(?:--)?([\w-]+)", str(error))
        line = None if about and about[1] in given else _line(Path(path), used, str(error))
        raise UsageError(f"--config {path}, line {line}: {error}" if line else str(error)) from None


def _line(path: Path, options: Mapping[str, object], error: str) -> int | None:
    """The last line of the file with what an error is about; None where that is not certain."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError):
        return None
    texts = sorted((text for text in _texts(options) if text in error), key=len, reverse=True)
    names = (rf"""["'/=]{re.escape(name)}(\.\w+)?["',]""" for name in re.findall(r"'([^' ]+)'", error))
    keys = (rf"^\s*{key}\s*=" for key in options if re.match(rf"(--)?{key}\b", error))
    for pattern in (*map(_whole, texts), *names, *keys):
        numbers = [number for number, line in enumerate(lines, 1) if re.search(pattern, line)]
        if numbers:
            return numbers[-1]
    return None


def _whole(word: str) -> str:
    return rf"(?<![\w-]){re.escape(word)}(?![\w-])"


def _texts(value: object) -> Iterable[str]:
    """The texts in lists and tables, but for short ones, which many lines may have."""
    if isinstance(value, str):
        return [value] if len(value) > 2 else []
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in _texts(one)]
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else []
