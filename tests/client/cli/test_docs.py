"""What the command can do and what docs/command.md says are the same, and each help text has an example."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import loopline
import pytest
import typer.main
from loopline.cli.app import app
from loopline.cli.columns import OPTIONS
from loopline.cli.shared import EXIT_CODES, hoisted
from loopline.files.schema import Schema
from typer.testing import CliRunner

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "command.md").read_text()
README = (ROOT / "client" / "README.md").read_text()


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command below one, by its words."""
    below = getattr(command, "commands", None)
    if below is None:
        return {path: command}
    return {words: leaf for name, child in below.items() for words, leaf in leaves(child, (*path, name)).items()}


COMMANDS = leaves(typer.main.get_command(app))


def section(words: tuple[str, ...]) -> str:
    found = re.search(rf"^### `loopline {' '.join(words)}\b.*?(?=^### |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/command.md has no section for `loopline {' '.join(words)}`"
    return found.group()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_option_is_documented(words: tuple[str, ...]) -> None:
    text = section(words)
    options = {option for param in COMMANDS[words].params for option in param.opts if option.startswith("-")}
    assert {option for option in options - {"--help", "-h"} if f"`{option}" not in text} == set()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_option_is_documented_that_is_not_there(words: tuple[str, ...]) -> None:
    table = "\n".join(line for line in section(words).splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", "\n".join(line.split("|")[1] for line in table.splitlines())))
    options = {option for param in COMMANDS[words].params for option in param.opts}
    assert named - options == set()


def test_every_section_is_of_a_command() -> None:
    headings = re.findall(r"^### `loopline ([a-z ]+?)(?: [A-Z\[].*)?`$", DOCUMENT, re.MULTILINE)
    assert {tuple(heading.split()) for heading in headings} == set(COMMANDS)


def test_the_options_of_all_commands_are_documented_with_their_variables() -> None:
    head = DOCUMENT.partition("## Exit codes")[0]
    for param in typer.main.get_command(app).params:
        assert all(f"`{option}" in head for option in param.opts), param.opts
        assert param.envvar is None or f"`{param.envvar}`" in head
    assert "`LOOPLINE_API_KEY`" in head


def test_every_exit_code_is_documented() -> None:
    table = DOCUMENT.partition("## Exit codes")[2].partition("## Commands")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == set(EXIT_CODES)


@pytest.mark.parametrize("words", [("train",), ("datasets", "upload"), ("datasets", "inspect")], ids=" ".join)
def test_each_field_of_a_schema_is_an_option(words: tuple[str, ...]) -> None:
    fields = {field.name for field in dataclasses.fields(Schema)}
    assert fields == set(OPTIONS)
    assert fields <= {param.name for param in COMMANDS[words].params}
    assert "schema" not in {param.name for param in COMMANDS[words].params}


GROUPS = ("batches", "searches", "schedules", "datasets", "models", "keys", "webhooks")


@pytest.mark.parametrize("words", [(), *((group,) for group in GROUPS), *COMMANDS], ids=" ".join)
def test_every_help_text_has_an_example_that_the_command_understands(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    example = re.search(r"Example: loopline (.+)", shown.stdout)
    assert example, shown.stdout
    typed = example.group(1).split()
    assert tuple(typed[: len(words)]) == words
    command = max((leaf for leaf in COMMANDS if tuple(typed[: len(leaf)]) == leaf), key=len)
    COMMANDS[command].make_context("loopline", typed[len(command) :], resilient_parsing=False)


def test_the_first_line_of_every_help_text_fits_the_list_of_commands() -> None:
    assert "..." not in CliRunner().invoke(app, ["--help"]).stdout.partition("Commands:")[2]


def test_options_of_the_root_are_found_after_the_command() -> None:
    assert hoisted(["list", "--url", "u", "--json"]) == ["--url", "u", "list", "--json"]
    assert hoisted(["list", "--url=u"]) == ["--url=u", "list"]
    assert hoisted(["submit", "--", "--url", "u"]) == ["submit", "--", "--url", "u"]
    assert hoisted(["list", "--url"]) == ["--url", "list"]


def test_every_public_name_is_there_and_every_file_is_in_the_readme() -> None:
    assert all(getattr(loopline, name).__doc__ for name in loopline.__all__)
    assert dir(loopline) == sorted(loopline.__all__)
    files = {path.name for path in (ROOT / "client" / "loopline").glob("*.py")} - {"__init__.py"}
    assert {name for name in (*files, "cli/", "view/") if f"loopline/{name} " not in README} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        loopline.nothing  # noqa: B018
