"""A new kind of port: one file in control/kinds, one in dataplane/ports, and no other file changed.

The two are put into a copy of the package that consists of links, and one of them compiled there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastvhost

PACKAGE = Path(fastvhost.__file__).parent
NEW = {"control/kinds/loop.py": "kind.py", "dataplane/ports/loop.pyx": "port.pyx"}
BUILD = """
from Cython.Build import cythonize
from setuptools import Extension, setup
package = "fastvhost"
loop = Extension("fastvhost.dataplane.ports.loop", [f"{package}/dataplane/ports/loop.pyx"], include_dirs=["."])
setup(ext_modules=cythonize([loop], compiler_directives={"language_level": 3, "cdivision": True}))
"""
PROGRAM = """
import json
import fastvhost
with fastvhost.attach("loop:") as port:
    frames = [bytes([number % 256]) * size for number, size in enumerate([14, 60, 1514, 9000] * 100)]
    got, sent = [], 0
    while len(got) < len(frames):
        sent += port.endpoint.send(frames[sent:sent + 16], timeout=0)
        with port.endpoint.recv(timeout=30) as burst:
            assert burst.n
            got += [bytes(frame) for frame in burst]
    stats = port.stats()["ports"]["loop"]
print(json.dumps({"whole": got == frames, "kind": stats["kind"], "rx": stats["rx_frames"], "tx": stats["tx_frames"]}))
"""


def run(directory: Path, *words: str) -> str:
    """The output of this interpreter with the copy in that directory."""
    path = os.pathsep.join([str(directory), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "CFLAGS": "-O0 -g0"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the package with the new kind lies in."""
    directory = tmp_path_factory.mktemp("loop")
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            link = directory / "fastvhost" / path.relative_to(PACKAGE)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    for place, source in NEW.items():
        new = directory / "fastvhost" / place
        assert not new.exists()
        new.write_text((Path(__file__).parent / "loop_kind" / source).read_text())
    (directory / "build.py").write_text(BUILD)
    run(directory, "build.py", "-q", "build_ext", "--inplace")
    return directory


def test_frames_come_back_whole_and_in_order_and_are_counted(copy: Path) -> None:
    assert json.loads(run(copy, "-c", PROGRAM)) == {"whole": True, "kind": "loop", "rx": 400, "tx": 400}


def test_the_command_line_knows_it(copy: Path) -> None:
    assert "\n  loop:\n" in run(copy, "-m", "fastvhost", "fwd", "--help")
    said = run(copy, "-m", "fastvhost", "fwd", "--port", "loop:", "--port", "loop:,name=other", "--check")
    assert "port 0 loop: loop:,name=loop\nport 1 other: loop:,name=other\nwire: loop <-> other\n" in said
