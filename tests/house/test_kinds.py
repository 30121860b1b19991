"""A kind of port is named in its own files only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastvhost.control.kinds import KINDS
from tests.house import sources

HOME = sources.PACKAGE / "control" / "kinds"
PLAIN = (sources.PACKAGE / "dataplane").glob("*.py")


def named(path: Path) -> set[str]:
    """Texts of a source that are a kind's name and nothing else."""
    text = path.read_text()
    if path.suffix == ".py":
        constants = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        return {value for value in constants if isinstance(value, str)} & KINDS.keys()
    return set(re.findall(r'"([^"\n]*)"', text)) & KINDS.keys()


@pytest.mark.parametrize("path", sources.files(".py", ".pyx"), ids=lambda path: str(path.relative_to(sources.PACKAGE)))
def test_only_its_own_files_name_a_kind(path: Path) -> None:
    if path.parent != HOME:
        assert named(path) - {path.stem} == set()


def test_every_file_of_kinds_is_one() -> None:
    homes = {type(kind).__module__.rpartition(".")[2] for kind in KINDS.values()}
    files = {path.stem for path in HOME.glob("*.py")} - {"__init__"}
    assert files == homes == {name.replace("-", "_") for name in KINDS}


def test_the_kinds_of_ports_load_no_extension_module() -> None:
    """Otherwise help, show and doctor would start slowly, and fail where nothing was built."""
    code = "import sys, fastvhost.control.kinds; print(*(one for one in sys.modules if 'fastvhost.dataplane.' in one))"
    done = subprocess.run([sys.executable, "-c", code], cwd=sources.ROOT, capture_output=True, text=True, check=True)
    assert {name.rpartition(".")[2] for name in done.stdout.split()} <= {path.stem for path in PLAIN}


def test_a_name_is_seen_in_either_language(tmp_path: Path) -> None:
    for name in ("a.py", "a.pyx"):
        (tmp_path / name).write_text('"""About tap."""\nif kind == "tap":\n    say("tap: no")\n')
        assert named(tmp_path / name) == {"tap"}
