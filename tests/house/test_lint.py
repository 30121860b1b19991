"""Types, lint and stubs, run as the tools run on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.house import sources

COMPILED = sources.files(".pyx")


def run(*command: str) -> str:
    """The tool's output; it must succeed."""
    # Tools call each other by name (cython-lint runs pycodestyle): the interpreter's own directory comes first.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=sources.ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_types_are_strict() -> None:
    assert "Success" in run("-m", "mypy", "--strict", "fastvhost")


def test_ruff_is_content() -> None:
    run("-m", "ruff", "check", "--no-cache", ".")


def test_cython_lint_is_content() -> None:
    code = "import sys; from cython_lint.cython_lint import main; sys.exit(main())"
    run("-c", code, *(str(path) for path in sources.files(".pyx", ".pxd")))


def test_stubs_tell_the_truth_about_their_modules(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    # Cython's constructors do not show their parameters.
    allowed.write_text(".*\\.__init__\n")
    options = ("--concise", "--ignore-missing-stub", "--ignore-disjoint-bases", "--ignore-unused-allowlist")
    run("-m", "mypy.stubtest", *options, "--allowlist", str(allowed), *(sources.module_name(path) for path in COMPILED))
