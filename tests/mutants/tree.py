"""A copy of the package with all compiled bugs at once, each with a switch that is off.

The checkout's sources do not mention them: the switches are inserted here, by text. A bug is switched on by its number,
by `fv_mutant` of each extension module or, for modules loaded later, by FASTVHOST_MUTANT in the environment.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tests.house import sources
from tests.mutants.mutant import ROOT, Mutant

HEADER = "fastvhost/mutant.h"
SWITCH = """/* Which of the seeded bugs is on: 0 is none. One for each extension module. */
#ifndef FASTVHOST_MUTANT_H
#define FASTVHOST_MUTANT_H
#include <stdlib.h>
__attribute__((weak)) int fv_mutant;
__attribute__((constructor)) static void choose_mutant(void)
{
    const char *number = getenv("FASTVHOST_MUTANT");
    fv_mutant = number ? atoi(number) : 0;
}
#endif
"""
DECLARATION = f'cdef extern from "{HEADER}" nogil:\n    int fv_mutant\n\n'
TRUTH = {"True": "<bint>1", "False": "<bint>0"}
"""Values of C: with Python's, an expression would be a Python object."""
FLAGS = "-O0 -g0"
"""These sources are compiled once and run for a minute."""


def switched(text: str, mutants: Sequence[tuple[int, Mutant]], *, in_c: bool) -> str:
    """A source with its bugs behind switches. The text of each must be there exactly once and not overlap another's."""
    places = []
    for number, mutant in mutants:
        if (found := text.count(mutant.before)) != 1:
            raise ValueError(f"{mutant.name}: its text is {found} times in {mutant.file}, not once")
        places.append((text.index(mutant.before), number, mutant))
    end = len(text)
    for start, number, mutant in sorted(places, reverse=True, key=lambda place: place[0]):
        stop = start + len(mutant.before)
        if stop > end:
            raise ValueError(f"{mutant.name}: another bug stands in the same text of {mutant.file}")
        both = _in_c(number, mutant) if in_c else _in_cython(number, mutant)
        text, end = text[:start] + both + text[stop:], start
    return text


def _in_c(number: int, mutant: Mutant) -> str:
    if mutant.before.endswith("\n"):
        return f"if (fv_mutant == {number}) {{\n{mutant.after}}} else {{\n{mutant.before}}}\n"
    return f"(fv_mutant == {number} ? ({mutant.after}) : ({mutant.before}))"


def _in_cython(number: int, mutant: Mutant) -> str:
    if not mutant.before.endswith("\n"):
        after = TRUTH.get(mutant.after, mutant.after)
        return f"(({after}) if fv_mutant == {number} else ({mutant.before}))"
    margin = mutant.before[: len(mutant.before) - len(mutant.before.lstrip(" "))]
    after, before = (textwrap.indent(lines, "    ") for lines in (mutant.after, mutant.before))
    return f"{margin}if fv_mutant == {number}:\n{after}{margin}else:\n{before}"


def _declared(text: str, *, in_c: bool) -> str:
    """With the switch made known: behind the opening text of a Cython source, before all of a header."""
    if in_c:
        return f'#include "{HEADER}"\n{text}'
    end = text.index('"""', 3) + 4
    return text[:end] + "\n" + DECLARATION + text[end:].lstrip("\n")


def sources_of(mutants: Sequence[Mutant]) -> dict[str, str]:
    """Every source of the package by its path, with all compiled bugs in it."""
    found = {str(path.relative_to(ROOT)): path.read_text() for path in sources.files(".py", ".pyx", ".pxd", ".h")}
    by_file: dict[str, list[tuple[int, Mutant]]] = {}
    for number, mutant in enumerate(mutants, 1):
        if mutant.compiled:
            by_file.setdefault(f"fastvhost/{mutant.file}", []).append((number, mutant))
    for name, those in by_file.items():
        in_c = name.endswith(".h")
        text = switched(found[name], those, in_c=in_c)
        # What a .pxd declares is known in the .pyx of its name.
        known = name.endswith(".pyx") and f"{name[:-3]}pxd" in by_file
        found[name] = text if known else _declared(text, in_c=in_c)
    return found | {HEADER: SWITCH, "setup.py": (ROOT / "setup.py").read_text()}


def build(where: Path, mutants: Sequence[Mutant]) -> Path:
    """Compile it there, unless that is up to date. Returns the directory to import it from."""
    wanted = sources_of(mutants)
    stamp, digest = where / "built", hashlib.sha256(repr((FLAGS, sys.version, sorted(wanted.items()))).encode())
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return where
    stamp.unlink(missing_ok=True)
    for path in (where / "fastvhost").rglob("*.p*"):
        if path.suffix in (".pyx", ".pxd") and str(path.relative_to(where)) not in wanted:
            path.unlink()  # of a build before: a module that is gone
    for name, text in wanted.items():
        path = where / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTVHOST_")}
    environment["FASTVHOST_CFLAGS"] = FLAGS
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j2"]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    stamp.write_text(digest.hexdigest())
    return where
