"""docs/security.md names tests that there are, and commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from docs.generate import ROLES as DESCRIBED
from risk_worker.cli import cli
from risk_worker.cli.doctor import ROLES as ASKED_FOR
from risk_worker.stream import permissions

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "security.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Of the table below a heading, without its head."""
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return [row for row in found if row[0] not in ("Who holds what", "What")]


BOUNDARIES = rows("Trust boundaries")
NAMED = sorted({each for row in BOUNDARIES for cell in row for each in re.findall(r"`(tests/\S+)`", cell)})


@pytest.mark.parametrize("row", BOUNDARIES, ids=lambda row: row[0][:60])
def test_a_row_says_what_was_tried_and_what_remains(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    assert re.search(r"`tests/[\w/]+\.py(::\w+)*`", row[2])


@pytest.mark.parametrize("name", NAMED)
def test_the_tests_that_it_names_exist(name: str) -> None:
    """A file, one of its tests, or a class of them."""
    path, *names = name.split("::")
    text = (ROOT / path).read_text()
    for each in names:
        assert re.search(rf"^\s*(?:async )?(?:def|class) {each}\b", text, re.M), each


@pytest.mark.parametrize("row", rows("Before production"), ids=lambda row: row[0][:60])
def test_each_line_before_production_has_a_command(row: list[str]) -> None:
    what, how = row
    commands = re.findall(r"`([^`]+)`", how)
    assert what and commands
    for words in (shlex.split(each)[1:] for each in commands if each.startswith("riskstream ")):
        command: click.Command | None = cli
        context = click.Context(cli)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            command, words = command.get_command(context, words[0]), words[1:]
        assert command is not None
        options = {name for each in command.params for name in each.opts}
        assert {word for word in words if word.startswith("-")} <= options


def test_the_roles_are_those_of_the_file() -> None:
    assert set(ASKED_FOR) == set(DESCRIBED) == set(permissions.roles())
    text = (ROOT / "docs/operate/redis-users.md").read_text()
    table = text.partition("| user | for |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.M)) == {*ASKED_FOR, "admin"}
