"""The project's sources and what they import, read without running them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fastvhost"

CYTHON_IMPORT = re.compile(
    r"^(?P<indent>[ \t]*)(?:from[ \t]+(?P<origin>[\w.]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^#\n]*)"
    r"|c?import[ \t]+(?P<module>[\w.]+))",
    re.MULTILINE,
)
HEADER = re.compile(r'(?:extern from|#include)\s+"(fastvhost/[\w/]+)\.h"')


@dataclass(frozen=True)
class Import:
    """One module uses another."""

    user: str
    used: str
    at_start: bool
    """Whether it runs when the module is loaded; other imports cannot make a cycle."""


def files(*suffixes: str) -> list[Path]:
    """Sources of the package with one of these suffixes, without what Cython made."""
    found = (path for suffix in suffixes for path in PACKAGE.rglob(f"*{suffix}"))
    return sorted(path for path in found if not (path.suffix == ".c" and path.with_suffix(".pyx").exists()))


def module_name(path: Path) -> str:
    """fastvhost.dataplane.receiveq for receiveq.pyx, receiveq.pxd and receiveq.pyi alike."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = frozenset(module_name(path) for path in files(".py", ".pyx", ".pxd", ".h"))


def imports() -> list[Import]:
    """Every import, cimport and C include between modules of the package."""
    found: list[Import] = []
    for path in files(".py"):
        found += _python(module_name(path), ast.parse(path.read_text()))
    for path in files(".pyx", ".pxd"):
        found += _cython(module_name(path), path.read_text())
    return [one for one in found if one.used in MODULES and one.used != one.user]


def _python(user: str, tree: ast.Module) -> list[Import]:
    found = []
    # Only statements of the module itself run when it is loaded; `if TYPE_CHECKING:` and functions do not.
    at_start = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(user, alias.name, id(node) in at_start) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [
                Import(user, used, id(node) in at_start) for used in _from(node.module, [a.name for a in node.names])
            ]
    return found


def _cython(user: str, text: str) -> list[Import]:
    found = []
    for match in CYTHON_IMPORT.finditer(text):
        names = re.findall(r"\w+", match["names"] or "")
        used = [match["module"]] if match["module"] else _from(match["origin"], names)
        found += [Import(user, one, not match["indent"]) for one in used]
    return found + [Import(user, header.replace("/", "."), False) for header in HEADER.findall(text)]


def _from(origin: str, names: list[str]) -> list[str]:
    """`from package import name` names a module where there is one of that name, else the package."""
    return [f"{origin}.{name}" if f"{origin}.{name}" in MODULES else origin for name in names]
