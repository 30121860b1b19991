"""Files are small and begin with what they are; every compiled module has a stub."""

from __future__ import annotations

import ast
import statistics
from importlib import import_module
from pathlib import Path

import pytest

from tests.house import sources

MEDIAN, MOST = 120, 450
CODE = sources.files(".py", ".pyx", ".pxd", ".h")


def lines(path: Path) -> int:
    """As an editor counts them."""
    return path.read_text().count("\n")


def test_files_stay_small() -> None:
    assert [str(path) for path in CODE if lines(path) > MOST] == []
    assert statistics.median(lines(path) for path in CODE) <= MEDIAN


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(sources.PACKAGE)))
def test_a_file_opens_with_what_it_is(path: Path) -> None:
    opening = "/*" if path.suffix == ".h" else '"""'
    assert path.read_text().startswith(opening)


@pytest.mark.parametrize("path", sources.files(".pyx"), ids=lambda path: path.stem)
def test_a_compiled_module_has_a_stub_beside_it(path: Path) -> None:
    assert path.with_suffix(".pyi").exists()


def undocumented(body: list[ast.stmt], owner: str = "") -> list[str]:
    """Public classes, and functions of the module itself, without a docstring. Methods stand in a documented class."""
    found = []
    for node in body:
        if isinstance(node, ast.If | ast.With):
            found += undocumented(node.body, owner)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                found.append(owner + node.name)
            if isinstance(node, ast.ClassDef):
                inner = [one for one in node.body if isinstance(one, ast.ClassDef)]
                found += undocumented(inner, f"{owner}{node.name}.")
    return found


@pytest.mark.parametrize("path", sources.files(".py", ".pyi"), ids=lambda path: str(path.relative_to(sources.PACKAGE)))
def test_what_is_public_is_documented(path: Path) -> None:
    missing = undocumented(ast.parse(path.read_text()).body)
    if path.suffix == ".pyi" and path.with_suffix(".pyx").exists():
        module = import_module(sources.module_name(path))
        # The source may say it instead; its first line is the signature, which Cython puts there.
        missing = [name for name in missing if "\n" not in (getattr(module, name).__doc__ or "")]
    assert missing == []


def test_what_a_compiled_module_shows_stands_in_its_stub() -> None:
    absent = []
    for path in sources.files(".pyx"):
        module = import_module(sources.module_name(path))
        stub = ast.parse(path.with_suffix(".pyi").read_text())
        names = {name for node in stub.body for name in bound(node)}
        absent += [
            f"{module.__name__}.{name}"
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and name not in names
        ]
    assert absent == []


def bound(node: ast.stmt) -> list[str]:
    """Names that a statement of a stub gives a meaning."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []
