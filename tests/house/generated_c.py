"""The C that Cython makes of the sources, and its log: the C of each nogil function. Built outside the checkout."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import Cython

from tests.house import sources

KEPT = sources.ROOT / "build" / "translated"
"""The C for tests, made again where a source of it has changed."""

# A function or method without the GIL: its name, whatever its parameters and however many lines they take.
NOGIL = re.compile(r"^\s*(?:cdef|cpdef)\s[^\n(=]*?(\w+)\((?:[^()]|\([^()]*\))*\)\s*noexcept nogil", re.MULTILINE)
# A function of C at the left margin: Cython writes each body between such a line and a closing brace at the margin.
C_FUNCTION = re.compile(r"^static [^;\n{]*?(__pyx_f_\w+)\([^;{]*\) \{(.*?)^\}", re.MULTILINE | re.DOTALL)
# Code that takes the GIL or needs it.
FORBIDDEN = re.compile(
    r"__Pyx_WriteUnraisable|PyGILState_Ensure|__Pyx_PyGILState_Ensure|PyEval_\w+|__Pyx_AddTraceback|PyErr_\w+"
    r"|__Pyx_RaiseX?\w*Error|Py_X?(?:INC|DEC)REF|__Pyx_X?(?:INC|DEC|GOT|GIVE)REF"
)


def directives() -> dict[str, object]:
    """The compiler directives of setup.py, read without running it."""
    for node in ast.parse((sources.ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DIRECTIVES":
            value: dict[str, object] = ast.literal_eval(node.value)
            return value
    raise AssertionError("setup.py has no DIRECTIVES")


def translate(tree: Path, modules: list[Path], **other: object) -> str:
    """Run Cython over modules below tree, with the project's directives and others. Returns its log."""
    options = [word for key, value in (directives() | other).items() for word in ("-X", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "cython", "-3", "-Wextra", *options, *(str(path) for path in modules)],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def copy_of_the_package(directory: Path) -> Path:
    """Its sources, below directory."""
    for path in sources.files(".py", ".pyx", ".pxd", ".h"):
        target = directory / path.relative_to(sources.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return directory


def _key(variant: str) -> str:
    """A hash of everything that the C depends on."""
    text = hashlib.sha256(repr((variant, directives(), Cython.__version__)).encode())
    for path in [Path(__file__), *sources.files(".pyx", ".pxd", ".h")]:
        text.update(repr((str(path.relative_to(sources.ROOT)), path.read_bytes())).encode())
    return text.hexdigest()


def translated(modules: list[Path], **other: object) -> tuple[Path, str]:
    """A copy of the package with the C of these modules, and Cython's log. Tests share it and must not write there."""
    modules = [path.relative_to(sources.ROOT) for path in modules]
    variant = repr((list(map(str, modules)), other))
    kept = KEPT / hashlib.sha256(variant.encode()).hexdigest()[:12]
    kept.mkdir(parents=True, exist_ok=True)
    tree, log, key = kept / "tree", kept / "log", kept / "key"
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not key.exists() or key.read_text() != _key(variant):
            key.unlink(missing_ok=True)
            shutil.rmtree(tree, ignore_errors=True)
            copy_of_the_package(tree)
            log.write_text(translate(tree, modules, **other))
            key.write_text(_key(variant))
        return tree, log.read_text()


def nogil_names(text: str) -> set[str]:
    """Functions that a .pyx or .pxd declares to run without the GIL."""
    return set(NOGIL.findall(text))


def gil_users(c_text: str, names: set[str]) -> list[str]:
    """Those of these C functions that contain code that takes the GIL or needs it."""
    found = []
    for name, body in C_FUNCTION.findall(c_text):
        if any(name.endswith(f"_{one}") for one in names) and (hit := FORBIDDEN.search(body)):
            found.append(f"{name}: {hit[0]}")
    return found
