"""Makes text from outside (names of processes and files, answers, messages) safe for a terminal and a log."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""One line with nothing that a terminal obeys: whatever is no visible character or space is written like \x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
