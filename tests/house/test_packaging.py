"""The content of a wheel, and that it works in an empty environment. Built in a copy of the repository's files.

Compiled with setup.py's flags plus -O0, which takes half the time; the checkout was built with setup.py's flags alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from bench.guests.short_dir import short_dir
from fastvhost import __version__
from tests.frontend import Guest
from tests.house import sources
from tests.house.generated_c import translated

pytestmark = pytest.mark.timeout(600)
QUICKLY = {"FASTVHOST_CFLAGS": "-O0 -g0"}


def run(*command: str | Path, **options: object) -> str:
    """The output of a command that must succeed."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FASTVHOST_PROBES")}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=clean | QUICKLY,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that git has or would add; no other file may be needed."""
    copy = tmp_path_factory.mktemp("checkout")
    listing = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=sources.ROOT)
    for name in filter(None, listing.split("\0")):
        if (sources.ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sources.ROOT / name, copy / name)
    # The C of these sources, made once for several tests: newer than they are, it is not made again.
    tree, _ = translated(sources.files(".pyx"))
    for path in sources.files(".pyx"):
        c_file = path.relative_to(sources.ROOT).with_suffix(".c")
        shutil.copy(tree / c_file, copy / c_file)
    out = tmp_path_factory.mktemp("wheel")
    # The build tools are those of the test environment ([test] names them): nothing is fetched.
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ".", cwd=copy)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and what it depends on, and nothing else."""
    directory = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", directory)
    run(directory / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return directory / "bin" / "python"


def test_the_wheel_ships_declarations_headers_stubs_and_the_typing_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(sources.ROOT)) for path in sources.files(".pxd", ".h", ".pyi", ".py")}
    assert wanted - names == set()
    assert {"fastvhost/py.typed", "fastvhost/README.md"} <= names


def test_the_wheel_ships_every_compiled_module_and_no_leftovers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    compiled = {name.split(".")[0] for name in names if name.endswith(".so")}
    assert compiled == {str(path.relative_to(sources.ROOT).with_suffix("")) for path in sources.files(".pyx")}
    assert [name for name in names if name.endswith((".c", ".html")) or name.startswith(("tests", "bench"))] == []


def test_the_wheel_tells_licence_version_and_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(about).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert f"\nVersion: {__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert "\nRequires-Python: >=3.11\n" in text


def test_an_empty_environment_takes_the_wheel_and_knows_how_it_was_built(python: Path, tmp_path: Path) -> None:
    code = "import fastvhost, json; print(json.dumps(fastvhost.build_info()))"
    info = json.loads(run(python, "-c", code, cwd=tmp_path))
    assert info["version"] == __version__
    assert "-O3" in info["flags"]
    assert "-march" not in info["flags"]
    assert info["compiler"].startswith(("gcc", "clang"))
    assert info["cython"].startswith("3.")
    assert info["cpu_level"] in ("plain", "avx2", "avx512")


def test_the_command_is_there_and_checks_a_configuration(python: Path, tmp_path: Path) -> None:
    command = python.parent / "fastvhost"
    assert run(command, "--version", cwd=tmp_path).startswith(f"fastvhost {__version__}\n")
    assert "wire: a <-> b" in run(command, "fwd", "--port", "a.sock", "--port", "b.sock", "--check", cwd=tmp_path)


def test_importing_the_package_loads_no_data_plane(python: Path, tmp_path: Path) -> None:
    code = "import sys, fastvhost; print([name for name in sys.modules if name.startswith('fastvhost.')])"
    assert run(python, "-c", code, cwd=tmp_path) == "['fastvhost._version']\n"


def test_every_public_name_is_there(python: Path, tmp_path: Path) -> None:
    code = "import fastvhost; print([name for name in fastvhost.__all__ if not getattr(fastvhost, name)])"
    assert run(python, "-c", code, cwd=tmp_path) == "[]\n"


USER = """
from fastvhost.abi.virtio_net cimport NET_HDR_BYTES, F_VERSION_1, has_feature
from fastvhost.abi.shared_memory cimport load_acquire_u16
from libc.stdint cimport uint16_t

def answer():
    cdef uint16_t word = 30
    return NET_HDR_BYTES + load_acquire_u16(&word) * has_feature(1 << 32, F_VERSION_1)
"""


def compiled(python: Path, directory: Path, text: str) -> None:
    """Make a module `user` of Cython text, against the installed copy and nothing else."""
    include = run(python, "-c", "import fastvhost; print(fastvhost.get_include())", cwd=directory).strip()
    assert not Path(include).is_relative_to(sources.ROOT)
    (directory / "user.pyx").write_text(text)
    (directory / "setup.py").write_text(
        "from setuptools import Extension, setup\nfrom Cython.Build import cythonize\n"
        f"one = Extension('user', ['user.pyx'], include_dirs=[{include!r}])\n"
        f"setup(ext_modules=cythonize([one], include_path=[{include!r}], language_level=3))\n"
    )
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=directory)


def test_other_extensions_can_be_compiled_against_an_installed_copy(python: Path, tmp_path: Path) -> None:
    compiled(python, tmp_path, USER)
    assert run(python, "-c", "import user; print(user.answer())", cwd=tmp_path) == "42\n"


SENDER = """

from libc.string cimport memcpy

def send(Endpoint port not None, const uint8_t[:] frame, uint32_t count):
    \"\"\"So many copies of a frame, without the GIL but while all buffers are out.\"\"\"
    cdef Parcel burst[64]
    cdef uint32_t n, i, sent = 0
    while sent < count:
        with nogil:
            n = port.lend_slots(burst, min(count - sent, 64))
            for i in range(n):
                burst[i].bytes = <uint32_t>frame.shape[0]
                memcpy(port.side.memory + <size_t>burst[i].slot * port.side.slot_bytes, &frame[0], burst[i].bytes)
            port.pass_on(burst, n)
        sent += n
        if n == 0:
            port.lend(1, timeout=60).release()
    return sent
"""

USES = """
import os, threading
from fastvhost import Door, Endpoint, Worker
import user

COUNT = 5000
door = Door()
near, far = (Endpoint(name, door, slots=256, slot_bytes=1600) for name in ("near", "far"))
worker = Worker(door)
worker.add_wire(near, far, hold=True, hold_timeout_ms=60000)
worker.add_wire(far, near, hold=True, hold_timeout_ms=60000)
polls = threading.Thread(target=worker.run)
reflects = threading.Thread(target=user.reflect, args=(far, 3.0))
frame = os.urandom(700)
polls.start(), reflects.start()
wanted, got = frame[6:12] + frame[:6] + frame[12:], 0
for _ in range(COUNT // 100):
    user.send(near, frame, 100)
    missing = 100
    while missing:
        with near.recv(64, timeout=60) as burst:
            assert burst.n and all(view == wanted for view in burst)
            missing -= burst.n
            got += burst.n
reflects.join()
worker.stop()
polls.join()
worker.close()
print(got, near.counters().rx_frames, far.counters().rx_frames)
"""


def code(language: str) -> str:
    """The README's first program in this language."""
    readme = (sources.ROOT / "README.md").read_text()
    text, *_ = re.findall(rf"^```{language}\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    return str(text)


def test_a_programs_own_extension_sends_and_receives_through_an_endpoint_without_the_gil(
    python: Path, tmp_path: Path
) -> None:
    compiled(python, tmp_path, code("cython") + SENDER)
    assert run(python, "-c", USES, cwd=tmp_path) == "5000 5000 5000\n"


def test_the_readmes_program_sends_back_what_a_guest_sends(python: Path) -> None:
    with short_dir() as directory:
        program = subprocess.Popen([python, "-c", code("python")], cwd=directory)
        try:
            deadline = time.monotonic() + 60
            while not (directory / "a.sock").exists():
                assert program.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            with Guest.boot(directory / "a.sock", receive_buffers=64) as guest:
                frame = bytes(range(6)) + bytes(range(10, 16)) + b"\x88\xb5 what a guest sends"
                back = frame[6:12] + frame[:6] + frame[12:]
                guest.net.send(frame)
                guest.kick()
                assert guest.net.receive() == back
        finally:
            program.kill()
            program.wait(60)
