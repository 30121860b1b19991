"""All files that code, documents and tests cite are in a clone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from bench.backends import KINDS
from tests.house import sources

INSTRUMENTS = sorted((sources.ROOT / "bench").rglob("*.c"))
TEXTS = (".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".md", ".toml", ".sh", "")
# A path from the root of the clone on; behind a letter, a dollar or a slash it is a part of another path.
FIRST = "bench|docs|examples|fastvhost|scripts|tests"
PATH = re.compile(rf"(?<![\w$/}}.-])(?:\./)?((?:{FIRST})/[\w./-]*[\w/])(?![\w*{{<])")
ROOMS = "|".join(sorted(path.name for path in sources.PACKAGE.iterdir() if path.is_dir()))
IN_A_ROOM = re.compile(rf"`((?:{ROOMS})/[\w/.]*\w)`")
MODULE = re.compile(r"python[\d.]* -m ((?:bench|examples|fastvhost|tests)[\w.]*\w)")
DOCUMENT = re.compile(r"(?<![\w/.*-])(?:\.\./)*\w[\w./-]*\.md\b")
SUFFIXES = ("", ".py", ".pyx", ".pxd", ".h")
MADE = {"fastvhost/mutant.h"}
"""By what runs."""
ELSEWHERE = {"docs/about/deprecated.rst"}
"""Of QEMU's sources."""
RATIOS = {f"fastvhost/{kind}" for kind in KINDS}
"""Of two back-ends, in tables."""
OWN = str(Path(__file__).relative_to(sources.ROOT))
BESIDE = re.compile(r"\.\./shared|ROOT\.parent\b")


def in_a_clone() -> frozenset[str]:
    """Files that git has or would add, and their directories."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=sources.ROOT, capture_output=True, text=True, timeout=60, check=True)
    files = [name for name in done.stdout.split("\0") if name and (sources.ROOT / name).exists()]
    return frozenset(files) | {str(parent) for name in files for parent in PurePosixPath(name).parents}


CLONE = in_a_clone()
NAMES = {PurePosixPath(name).name for name in CLONE}
FILES = sorted(name for name in CLONE if (sources.ROOT / name).is_file() and PurePosixPath(name).suffix in TEXTS)


def is_there(cited: str, beside: str) -> bool:
    """Whether it is in the clone: from its root, the citing file's directory or the package on, or by name."""
    if "/" not in cited:
        return cited in NAMES
    where = (PurePosixPath(), PurePosixPath(beside).parent, PurePosixPath("fastvhost"))
    return any(normal(place / (cited + suffix)) in CLONE for place in where for suffix in SUFFIXES)


def normal(path: PurePosixPath) -> str:
    """Resolve `..`; where it leads out of the clone, no file has that name."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return str(PurePosixPath(*parts))


def cites(text: str) -> Iterator[str]:
    """Names of files in a text; not names that only look like one, such as test_ and NAME.jsonl."""
    yield from (match for match in PATH.findall(text) if not match.endswith("_") and "NAME" not in match)
    yield from IN_A_ROOM.findall(text)
    yield from (match.replace(".", "/") for match in MODULE.findall(text))
    if ".md" in text:
        yield from DOCUMENT.findall(text)


def missing(name: str, text: str) -> list[str]:
    """Cited names that are not in a clone."""
    known = MADE | ELSEWHERE | RATIOS
    return [cited for cited in cites(text) if cited not in known and not is_there(cited, name)]


def test_what_is_cited_is_in_the_clone() -> None:
    texts = {name: (sources.ROOT / name).read_text() for name in FILES if name != OWN}
    absent = {name: found for name, text in texts.items() if (found := missing(name, text))}
    assert absent == {}


def test_nothing_is_looked_for_beside_the_clone() -> None:
    assert [name for name in FILES if name != OWN and BESIDE.search((sources.ROOT / name).read_text())] == []


@pytest.mark.parametrize(
    "text",
    [
        "see docs/no-such.md",
        "NO_SUCH.md has it",
        "python -m bench.no_such",
        "`scripts/no-such`",
        "(`cli/no_such`)",
        "../notes/THREATS.md",
    ],
)
def test_a_cite_of_what_no_clone_has_is_found(text: str) -> None:
    assert missing("docs/operations.md", text) != []


@pytest.mark.parametrize("source", INSTRUMENTS, ids=lambda path: path.stem)
def test_a_program_that_bench_compiles_is_in_the_clone_and_compiles(source: Path) -> None:
    assert str(source.relative_to(sources.ROOT)) in CLONE
    subprocess.run(["gcc", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", source], check=True, timeout=120)
