"""Keys from the bytes that a terminal sends. Sequences as of xterm, which the terminals of today share."""

from __future__ import annotations

import codecs
import re

ESCAPE = "\x1b"
SEQUENCES = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "OA": "up", "OB": "down", "OC": "right", "OD": "left",
    "[5~": "page up", "[6~": "page down", "[H": "home", "[F": "end", "OH": "home", "OF": "end", "[1~": "home",
    "[4~": "end", "[7~": "home", "[8~": "end", "OP": "h", "[11~": "h", "[[A": "h",
}  # fmt: skip
"""Behind an escape; those of F1 are help."""
CONTROLS = {
    "\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x15": "clear", "\x0c": "redraw",
}  # fmt: skip
SEQUENCE = re.compile(r"O.|\[\[.|\[[0-?]*[ -/]*[@-~]", re.DOTALL)
"""One that is whole: of ECMA-48 (CSI), of one character (SS3), or Linux's console for F1 to F5."""
MOST_PENDING = 32
"""Characters; no sequence is longer."""


class Keys:
    """Bytes go in as they are read, keys come out: a character, or a name such as "page up"."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode
        self._pending = ""

    @property
    def waits(self) -> bool:
        """Whether an escape may be a key, or the beginning of a sequence: call end() if no more comes soon."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete."""
        self._pending += self._decode(data)
        found = []
        while self._pending:
            if self._pending[0] != ESCAPE:
                key, self._pending = self._pending[0], self._pending[1:]
                found.append(CONTROLS.get(key, key))
            elif self._pending[1:2] not in ("", "[", "O"):  # another key came as soon
                found.append("escape")
                self._pending = self._pending[1:]
            elif match := SEQUENCE.match(self._pending, 1):
                self._pending = self._pending[match.end() :]
                if key := SEQUENCES.get(match.group(), ""):
                    found.append(key)
            elif len(self._pending) > MOST_PENDING:
                self._pending = ""
            else:
                break
        return found

    def end(self) -> list[str]:
        """Nothing more came: an escape by itself is the key."""
        alone, self._pending = self._pending == ESCAPE, ""
        return ["escape"] if alone else []
