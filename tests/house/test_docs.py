"""What the documents say is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastvhost import __version__
from fastvhost.cli import fwd
from fastvhost.cli.example import lines
from fastvhost.cli.main import VERBS
from fastvhost.cli.parser import Parser
from fastvhost.control.port_spec import parse
from fastvhost.dataplane import drop_reason
from fastvhost.frontend import features
from fastvhost.vhostuser import protocol_features
from tests.house import sources

README = (sources.ROOT / "README.md").read_text()
ARCHITECTURE = (sources.PACKAGE / "README.md").read_text()
PAGES = [sources.ROOT / "README.md", sources.PACKAGE / "README.md", *sorted((sources.ROOT / "docs").glob("*.md"))]


def test_every_drop_reason_is_explained_and_no_other() -> None:
    table = README.split("## Why a frame was dropped")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == drop_reason.NAMES


def test_every_verb_and_option_is_in_the_summary() -> None:
    summary = README.split("## The command line")[1].split("\n## ")[0]
    assert set(re.findall(r"^fastvhost (\w+)", summary, re.MULTILINE)) == set(VERBS)
    parser = Parser()
    fwd.add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    assert set(re.findall(r"--[a-z][a-z-]+", summary)) - {"--version"} <= known


def test_the_qemu_lines_are_those_that_example_prints() -> None:
    assert lines("qemu", parse("/run/vm/a.sock")) in README


def test_the_architecture_names_the_features_that_are_offered() -> None:
    supported = ARCHITECTURE.split("## Supported")[1].split("\n## ")[0]
    for name in protocol_features.protocol_names(protocol_features.offered_protocol_features(queue_pairs=2)):
        assert name in supported
    for name in features.names(protocol_features.offered_features(queue_pairs=2)):
        assert name in supported or name == "PROTOCOL_FEATURES"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(sources.ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__}" in (sources.ROOT / "CHANGELOG.md").read_text()
