"""examples/app1.py counts one stream: late frames of the stream before are not counted as its frames."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).parents[2] / "examples" / "app1.py"
GUEST = bytes.fromhex("525400000001")


@pytest.fixture(scope="module")
def app1() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("app1", PATH)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["app1"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["app1"]


class Scene:
    """App1 without a port; its streams begin, and frames reach it."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self._parser = module, module.make_parser()
        self.app: Any = module.App1(None, self._options("bounce"))
        self.app.guest_mac = GUEST

    def _options(self, stream: str) -> argparse.Namespace:
        return self._parser.parse_args(["--port", "null:", "--stream", stream])

    def begin(self, stream: str) -> None:
        self.app.prepare(self._options(stream))

    def run(self, stream: str) -> bytes:
        """Begin a stream. Returns one of its frames, as it arrives."""
        self.begin(stream)
        self.app.model = self.app.from_guest(self.module.STREAM)
        return bytes(self.app.model)

    def take(self, frame: bytes) -> None:
        self.app.take_other(memoryview(frame), [])

    @property
    def corrupt(self) -> int:
        return int(self.app.figures.corrupt)


@pytest.fixture
def scene(app1: ModuleType) -> Scene:
    return Scene(app1)


def numbered(frame: bytes, number: int) -> bytes:
    return frame[:46] + number.to_bytes(4, "big") + frame[50:]


@pytest.mark.parametrize("stream", ["bounce", "in"])
def test_no_two_streams_send_the_same_frames(scene: Scene, stream: str) -> None:
    assert len({scene.run(stream) for _ in range(20)}) == 20


@pytest.mark.parametrize("stream", ["bounce", "in"])
@pytest.mark.parametrize("later", ["bounce", "in", "out"])
def test_a_frame_that_was_counted_as_lost_and_comes_in_a_later_stream_is_not_corrupt(
    scene: Scene, stream: str, later: str
) -> None:
    late = numbered(scene.run(stream), 77)
    scene.begin(later)
    scene.take(late)
    scene.run(later)
    scene.take(late)
    assert scene.corrupt == 0


def test_as_many_streams_as_app1_says_are_remembered_and_no_more(scene: Scene) -> None:
    late = numbered(scene.run("bounce"), 77)
    for _ in range(scene.module.REMEMBERED):
        scene.run("in")
    scene.take(late)
    assert scene.corrupt == 0
    for _ in range(1000):
        scene.run("in")
    assert len(scene.app.earlier) == scene.module.REMEMBERED


@pytest.mark.parametrize("at", [0, 20, 53, 63])
def test_a_frame_in_which_one_byte_is_wrong_is_corrupt_whenever_it_comes(scene: Scene, at: int) -> None:
    frame = bytearray(numbered(scene.run("bounce"), 77))
    frame[at] ^= 1
    scene.take(bytes(frame))
    assert scene.corrupt == 1
    scene.run("bounce")
    scene.take(bytes(frame))
    assert scene.corrupt == 1


def test_what_the_guests_program_says_of_a_stream_before_is_not_said_of_this_one(scene: Scene) -> None:
    scene.begin("out")
    seen = scene.app.from_guest(scene.module.SEEN)[:46] + (9).to_bytes(4, "big") + (1).to_bytes(4, "big")
    seen += scene.app.from_guest(scene.module.SEEN)[54:]
    scene.app.figures.sent = 10
    scene.take(seen)
    assert (scene.app.figures.intact, scene.corrupt) == (9, 1)
    scene.begin("out")
    scene.app.figures.sent = 10
    scene.take(seen)
    assert (scene.app.figures.intact, scene.corrupt) == (0, 0)


def test_an_end_that_is_another_streams_ends_nothing(scene: Scene) -> None:
    scene.begin("in")
    done = numbered(scene.app.from_guest(scene.module.DONE), 5)
    scene.begin("in")
    scene.take(done)
    assert not scene.app.done
    scene.take(numbered(scene.app.from_guest(scene.module.DONE), 5))
    assert scene.app.done
