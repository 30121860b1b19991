"""One word has one meaning: an exported name has one home, and the glossary has all words of this project."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.house import sources

DECLARED = re.compile(
    r"^(?:cdef|ctypedef)\s+(?:(?:packed\s+)?(?:struct|enum|union)|class)\s+(\w+)"  # a type
    r"|^ctypedef\s+[^\n(]*?(\w+)$"  # another name of one
    r"|^ctypedef\s+.*\(\*(\w+)\)"  # a pointer to a function
    r"|^cdef\s+(?!enum|struct|class|extern|packed)[^\n(=]*?(\w+)\(",  # a function
    re.MULTILINE,
)


def exported(path: Path) -> set[str]:
    """Names that other modules may import: public classes, and declarations of a .pxd."""
    text = path.read_text()
    if path.suffix == ".pxd":
        return {name for match in DECLARED.findall(text) for name in match if name}
    return {node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name[0] != "_"}


def homes() -> dict[str, set[str]]:
    """The modules of each exported name."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sources.files(".py", ".pyi", ".pxd"):
        for name in exported(path):
            found[name].add(sources.module_name(path))
    return found


def test_an_exported_name_has_one_home() -> None:
    assert {name: modules for name, modules in homes().items() if len(modules) > 1} == {}


@pytest.mark.parametrize(
    ("suffix", "text", "names"),
    [
        (".py", "class A:\n    class Inner: ...\nclass _B: ...\ndef f(): ...\n", {"A"}),
        (".pxd", "cdef struct S:\n    int a\ncdef packed struct P:\n    int b\n", {"S", "P"}),
        (".pxd", "cdef class C(Base):\n    cdef int x\n    cdef void f(self)\n", {"C"}),
        (".pxd", "ctypedef S T\nctypedef void (*Apply)(void *what) noexcept nogil\n", {"T", "Apply"}),
        (".pxd", "cdef inline int f(const S *s) noexcept nogil:\n    pass\ncdef void g(\n    int a\n)\n", {"f", "g"}),
        (".pxd", "cdef enum:\n    A = 1\ncdef enum E:\n    B\ncdef extern from 'x.h':\n    int h(int a)\n", {"E"}),
    ],
)
def test_what_is_exported_is_seen(tmp_path: Path, suffix: str, text: str, names: set[str]) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    assert exported(path) == names


GLOSSARY = (sources.PACKAGE / "README.md").read_text().split("## Glossary")[1].split("\n## ")[0]
LINES = [line.strip("|").split("|") for line in GLOSSARY.splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line] for line in LINES[1:]]


def test_the_glossary_has_every_type_that_the_data_plane_exports_and_no_other() -> None:
    listed = {name for _, names, _ in ROWS for name in re.findall(r"`(\w+)`", names)}
    found = homes()
    room = f"{sources.PACKAGE.name}.dataplane"
    rooms = {room, f"{room}.forward"}
    exported_there = {name for name, at in found.items() if {one.rpartition(".")[0] for one in at} <= rooms}
    assert listed == {name for name in exported_there if name[0].isupper() and not name.endswith("Error")}


def test_no_word_of_the_glossary_stands_there_twice() -> None:
    words = [word.strip() for row, _, _ in ROWS for word in row.split(",")]
    assert sorted(set(words)) == sorted(words)
