"""README says what is so: its table of settings, its commands, its links, its metrics."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.monitor.catalogue import METRICS

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    """The table as it should be."""
    defaults = Settings().shown()
    rows = [
        f"| `{meta['env']}` | {defaults[meta['env']]} | {meta['description']} |".replace("|  |", "| |")
        for meta in Settings.declared().values()
    ]
    return "\n".join(["| Variable | Default | Meaning |", "|---|---|---|", *rows])


def test_the_table_of_settings_is_that_of_the_declarations() -> None:
    assert settings_table() in README, f"README should hold this table:\n\n{settings_table()}\n"


@pytest.mark.parametrize(
    "line",
    re.findall(r"^ {4}riskstream (.*?)(?: {3,}.*)?$", README, re.M)
    + re.findall(r"`riskstream (.*?)`", README),
)
def test_commands_exist(line: str) -> None:
    words = [word for word in shlex.split(line) if word != "FILE"]
    command: click.Command | None = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break
        command, words = command.get_command(context, words[0]), words[1:]
    assert command is not None


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^ {4}make ([a-z]+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.M))
    assert {"demo", "test", "check", "bench"} <= named <= targets


def test_links_lead_somewhere() -> None:
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"\]\(([^)]+)\)", text):
            assert (ROOT / target).exists(), target


def test_what_reliability_names_exists() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"\btests/[\w/.]*\w", text)
    named += [f"tests/integration/{each}" for each in re.findall(r"(?<![\w/])\w+/test_\w+\.py", text)]
    assert len(named) > 8
    for each in named:
        assert (ROOT / each).exists(), each
    told = set(re.findall(r"\bRISK_TEST_\w+", text))
    assert told == set(
        re.findall(r"\bRISK_TEST_\w+", " ".join(map(Path.read_text, ROOT.glob("tests/**/*.py"))))
    )


def test_metrics_are_served() -> None:
    assert set(re.findall(r"`(risk_\w+_(?:total|length|seconds)|risk_up)`", README)) <= {
        each.name for each in METRICS
    }


def test_the_figures_of_the_demo_add_up() -> None:
    [row] = re.findall(r"│ all +│(.*)│", README)
    accepted, stored, *others = (int(cell.replace(",", "")) for cell in row.split("│"))
    assert accepted == stored + sum(others)
