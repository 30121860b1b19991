"""Puts a bug into a loaded Python function, in place, so that all references to it have the bug."""

from __future__ import annotations

import ast
import gc
from importlib import import_module
from types import CodeType, FunctionType

from tests.mutants.mutant import Mutant


def changed(mutant: Mutant) -> tuple[str, CodeType]:
    """The qualified name of the outermost function with the text, and its code with the bug.

    Raises ValueError unless the file has the text exactly once, in a function.
    """
    text = mutant.text
    if (found := text.count(mutant.before)) != 1:
        raise ValueError(f"{mutant.name}: its text is {found} times in {mutant.file}, not once")
    at = text.index(mutant.before)
    name = _function_around(ast.parse(text).body, text[:at].count("\n") + 1)
    if name is None:
        raise ValueError(f"{mutant.name}: its text stands in no function of {mutant.file}")
    code = compile(text[:at] + mutant.after + text[at + len(mutant.before) :], mutant.file, "exec", dont_inherit=True)
    return name, _named(code, name)


def put_in(mutant: Mutant) -> None:
    """Have the bug from now on in this process."""
    name, code = changed(mutant)
    module = import_module("fastvhost." + mutant.file.removesuffix(".py").replace("/", "."))
    those = [
        one
        for one in gc.get_objects()
        if isinstance(one, FunctionType) and one.__module__ == module.__name__ and one.__code__.co_qualname == name
    ]
    if len(those) != 1:
        raise ValueError(f"{mutant.name}: {len(those)} functions are called {name} in {module.__name__}")
    those[0].__code__ = code


def _function_around(body: list[ast.stmt], line: int, owner: str = "") -> str | None:
    for node in body:
        first = min([one.lineno for one in getattr(node, "decorator_list", [])], default=node.lineno)
        if first <= line <= (node.end_lineno or first):
            if isinstance(node, ast.FunctionDef):
                return owner + node.name
            if isinstance(node, ast.ClassDef):
                return _function_around(node.body, line, f"{owner}{node.name}.")
    return None


def _named(code: CodeType, name: str) -> CodeType:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_qualname == name:
                return one
            if name.startswith(f"{one.co_qualname}."):
                return _named(one, name)
    raise ValueError(f"no code of {name}")
