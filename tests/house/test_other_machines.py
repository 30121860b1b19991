"""All modules compile for aarch64, too, without a warning. Debian's cross compiler; nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.house import sources
from tests.house.generated_c import translated

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def c_files() -> list[Path]:
    """The C of every module, below a copy of the package."""
    modules = sources.files(".pyx")
    tree, _ = translated(modules)
    return [tree / path.relative_to(sources.ROOT).with_suffix(".c") for path in modules]


def warnings_asked_for() -> list[str]:
    """The flags of setup.py that concern warnings and the language, read without running it."""
    flags: list[str] = []
    for node in ast.parse((sources.ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign | ast.AugAssign) and isinstance(node.value, ast.List):
            target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
            if ast.unparse(target) == "CFLAGS":
                flags += ast.literal_eval(node.value)
    return [flag for flag in flags if flag.startswith(("-W", "-f"))]


def compile_for_aarch64(c_file: Path, root: Path) -> str:
    """The compiler's output, empty without warnings. This machine's CPython headers fit: both machines are LP64."""
    done = subprocess.run(
        [
            "aarch64-linux-gnu-gcc", *warnings_asked_for(), "-Werror", "-O1", "-fPIC", "-c", "-o", "/dev/null",
            '-DFASTVHOST_BUILD_FLAGS="none"', f"-I{root}", f"-I{sysconfig.get_path('include')}", str(c_file),
        ],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


def test_every_module_compiles_for_aarch64_without_a_warning(c_files: list[Path]) -> None:
    assert len(c_files) >= 20
    assert "-Wextra" in warnings_asked_for()
    root, _ = translated(sources.files(".pyx"))
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda c_file: compile_for_aarch64(c_file, root), c_files))
    assert "\n".join(filter(None, said)) == ""


def test_the_compiler_minds_what_only_one_machine_has(tmp_path: Path) -> None:
    bad = tmp_path / "bad.c"
    bad.write_text("#include <immintrin.h>\nint one(void) { return 1; }\n")
    assert "immintrin.h" in compile_for_aarch64(bad, tmp_path)
