"""The packet path never takes the GIL. `cython -a` does not show all places that do, so the C is searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import generated_c, sources
from tests.house.generated_c import C_FUNCTION, gil_users, nogil_names, translate

ROOMS = ("dataplane", "dataplane/ports", "driver")


@pytest.fixture(scope="module")
def translated() -> tuple[Path, str]:
    return generated_c.translated(sources.files(".pyx"))


def test_cython_has_no_advice_about_speed(translated: tuple[Path, str]) -> None:
    assert [line for line in translated[1].splitlines() if "performance hint" in line] == []


def test_no_function_without_the_gil_takes_it_after_all(translated: tuple[Path, str]) -> None:
    tree, _ = translated
    checked, wrong = 0, []
    for room in ROOMS:
        texts = [
            path.read_text() for suffix in ("pyx", "pxd") for path in (tree / "fastvhost" / room).glob(f"*.{suffix}")
        ]
        names = set().union(*map(nogil_names, texts))
        for c_file in (tree / "fastvhost" / room).glob("*.c"):
            text = c_file.read_text()
            wrong += gil_users(text, names)
            checked += sum(any(name.endswith(f"_{one}") for one in names) for name, _ in C_FUNCTION.findall(text))
    assert wrong == []
    # Each function was found once, so the patterns match.
    assert checked >= 40


BAD = """
cdef int may_raise(int x) except -1:
    if x:
        raise ValueError
    return 0

cdef int may_raise_nogil(int x) except -1 nogil:
    return x

cdef void planted(
    int x,
    int (*callback)(int) noexcept nogil,
) noexcept nogil:
    may_raise_nogil(x)

cdef int clean(int x) noexcept nogil:
    return x + 1

cdef class Thing:
    cdef int method(self, int x) noexcept nogil:
        with gil:
            may_raise(x)
        return x
"""


def test_a_planted_gil_acquire_is_found_and_clean_code_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bad.pyx").write_text(BAD)
    translate(tmp_path, [Path("bad.pyx")])
    assert nogil_names(BAD) == {"planted", "clean", "method"}
    wrong = gil_users((tmp_path / "bad.c").read_text(), nogil_names(BAD))
    assert {one.split(":")[0].rsplit("_", 1)[1] for one in wrong} == {"planted", "method"}
