"""A bug as a table has it: where it stands, what stands there instead, and the test that finds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """file: below fastvhost/. before: text that it has exactly once; after: what a bug makes of it.

    Text that ends with a line's end is whole lines, of one indentation; any other text is an expression.
    test: the node id below tests/ of the one test that finds it.
    """

    name: str
    file: str
    before: str
    after: str
    test: str

    @property
    def compiled(self) -> bool:
        """Whether it stands in what a compiler sees; the others are put into functions of a running interpreter."""
        return not self.file.endswith(".py")

    @property
    def text(self) -> str:
        """Of its file as it is in the checkout."""
        return (ROOT / "fastvhost" / self.file).read_text()
