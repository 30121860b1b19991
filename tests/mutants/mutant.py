"""An entry of the table of bugs: the file, the right text, the text with the bug, and the test that finds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """file: below fastvhost/. before: text that it has exactly once; after: that text with the bug.

    Text that ends with a newline is whole lines of one indentation; any other text is an expression.
    test: the node id below tests/ of the one test that finds it.
    """

    name: str
    file: str
    before: str
    after: str
    test: str

    @property
    def compiled(self) -> bool:
        """Whether its file is compiled; other bugs are put into functions of a running interpreter."""
        return not self.file.endswith(".py")

    @property
    def text(self) -> str:
        """Of its file as it is in the checkout."""
        return (ROOT / "fastvhost" / self.file).read_text()
