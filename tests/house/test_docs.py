"""The documents say what the program does."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from fastvhost import __version__
from fastvhost.backend import features
from fastvhost.cli import fwd
from fastvhost.cli.example import lines
from fastvhost.cli.main import VERBS
from fastvhost.cli.parser import Parser
from fastvhost.control import policy
from fastvhost.control.config import OPTIONS, build
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.kinds import KINDS
from fastvhost.control.port_text import parse
from fastvhost.dataplane import drop_reason
from fastvhost.vhostuser import protocol_features
from tests.house import sources

COMMANDS = (sources.ROOT / "docs" / "cli.md").read_text()
README = (sources.ROOT / "README.md").read_text()
ARCHITECTURE = (sources.PACKAGE / "README.md").read_text()
PAGES = [
    *sorted(sources.ROOT.glob("*.md")),
    sources.PACKAGE / "README.md",
    *sorted((sources.ROOT / "docs").glob("*.md")),
]


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


def section(page: str, title: str) -> str:
    """A section of a page, without the following ones."""
    return page.split(f"\n{title}\n", 1)[1].split("\n## ")[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_in_its_section_and_no_other(verb: str) -> None:
    parser = Parser()
    import_module(f"fastvhost.cli.{verb}").add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    assert set(re.findall(r"--[a-z][a-z-]+", section(COMMANDS, f"## {verb}"))) == known - {"--help"}


def test_every_kind_of_port_and_each_of_its_keys_is_explained() -> None:
    ports = section(COMMANDS, "### Ports").split("\n### ")[0]
    kinds = re.findall(r"^\| `([\w-]+)` \|", ports, re.MULTILINE)
    assert set(kinds) == set(KINDS)
    explained: dict[str, set[str]] = {kind: {*policy.KEYS} for kind in kinds}
    for names, where in re.findall(r"^\| (`[\w-]+=.*?) \| (.*?) \|", ports.replace(r"\|", "/"), re.MULTILINE):
        for kind in re.findall(r"`([\w-]+)`", where):
            explained[kind] |= set(re.findall(r"`([\w-]+)=", names))
    assert explained == {name: {*kind.keys, *policy.KEYS} for name, kind in KINDS.items()}


def test_the_exit_codes_are_those_of_errors() -> None:
    table = section(COMMANDS, "## For all verbs")
    codes = set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE))
    assert codes == {"0", "130", str(RuntimeFailure.exit_code), str(UsageError.exit_code)}


def test_a_configuration_file_takes_what_its_page_says() -> None:
    page = section(COMMANDS, "## fwd")
    options = set(re.findall(r"^\| `--([a-z-]+)", page, re.MULTILINE))
    assert options - {"config", "check", "log-level"} == set(OPTIONS)
    example = page.split("\n```\n")[3]
    assert build(tomllib.loads(example)).cores == (2, 3)


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
