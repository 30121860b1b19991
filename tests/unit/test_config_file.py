"""Errors of the file of --config name the file and, where that is certain, the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastvhost.control import config_file
from fastvhost.control.errors import UsageError

FILE = """\
# two guests
port = [
  "a.sock",
  {{path = "b.sock", queues = {queues}}},
  "{third}",
]
wire = ["{wire}"]
hold-timeout = "{timeout}"
"""


def text(**changes: str) -> str:
    return FILE.format(**{"queues": "2", "third": "c.sock", "wire": "a:b", "timeout": "50ms", **changes})


def file(directory: Path, content: str) -> str:
    path = directory / "fwd.toml"
    path.write_text(content)
    return str(path)


def test_the_command_line_wins(directory: Path) -> None:
    path = file(directory, text())
    assert config_file.build(path, {}).hold_timeout == 0.05
    settings = config_file.build(path, {"port": ["x.sock", "a.sock", "b.sock"], "hold-timeout": "1s"})
    assert [port.name for port in settings.ports] == ["x", "a", "b"]
    assert settings.hold_timeout == 1


@pytest.mark.parametrize(
    ("changes", "line", "said"),
    [
        ({"third": "c.sock,foo=1"}, 5, "a vhost-user port has no key 'foo'"),
        ({"third": "x/a.sock"}, 5, "2 ports are called 'a'"),
        ({"queues": "0"}, 4, "queues=0 is not a number of queue pairs"),
        ({"wire": "a:z"}, 7, "there is no port 'z'"),
        ({"timeout": "50 apples"}, 8, "hold-timeout"),
    ],
)
def test_an_error_names_its_line(directory: Path, changes: dict[str, str], line: int, said: str) -> None:
    path = file(directory, text(**changes))
    with pytest.raises(UsageError, match=rf"^--config {path}, line {line}: .*{said}"):
        config_file.build(path, {})


def test_what_is_no_toml_names_its_line(directory: Path) -> None:
    with pytest.raises(UsageError, match=r"not TOML: .*line 2"):
        config_file.build(file(directory, "json = true\nport = ,\n"), {})


def test_an_error_of_the_command_line_names_no_line_of_the_file(directory: Path) -> None:
    with pytest.raises(UsageError, match=r"^--wire a:z: there is no port 'z'"):
        config_file.build(file(directory, text()), {"wire": ["a:z"]})
