"""The pages for the person on call have what they need, and name commands that there are."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest

from tests.support.compose import compose
from tests.support.deploy import ROOT, command_exists
from tests.support.page import DOCS, Page

TROUBLESHOOTING = Page("troubleshooting.md")
OPERATIONS = Page("operations.md")
SERVICES = compose({})["services"]
PROBLEMS = (ROOT / "worker/risk_worker/status/problems.py").read_text()
NAMED = {
    *re.findall(r'Problem\(\s*"(\w+)"', PROBLEMS),
    *re.findall(r'"([a-z]+_[a-z_]+)"(?= if | else )', PROBLEMS),
    *re.findall(r'(?<= else )"([a-z]+_[a-z_]+)"', PROBLEMS),
}
"""What `riskstream status` may name."""
FIRST = ["riskstream status", "riskstream doctor", "riskstream verify"]


def test_the_names_are_found() -> None:
    assert {"redis_away", "postgres_refuses", "postgres_away", "stream_full", "stream_nearly_full"} <= NAMED
    assert len(NAMED) > 25


def test_every_problem_has_a_row_with_command_cause_and_cure() -> None:
    rows = {
        name: cells
        for cells in TROUBLESHOOTING.rows
        if len(cells) == 4
        for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", cells[0])
    }
    assert rows.keys() >= NAMED
    assert all(all(cells) for cells in rows.values())


@pytest.mark.parametrize("cells", [cells for cells in TROUBLESHOOTING.rows if len(cells) == 4])
def test_a_row_has_one_command(cells: list[str]) -> None:
    """Which tests/system/test_operations.py runs."""
    assert re.fullmatch(r"`(riskstream|psql|redis-cli|rq) [^`]+`", cells[1])


@pytest.mark.parametrize(
    "name", ["operations.md", "troubleshooting.md", "operate/alerts.md", "operate/status.md"]
)
def test_the_page_begins_with_what_to_ask(name: str) -> None:
    assert set(Page(name).lines[:3]) <= {*FIRST, "riskstream tail"}


PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("operate/*.md")])
COMPOSE = sorted(
    {
        (str(page.relative_to(ROOT)), re.split(r" {3,}", line)[0])
        for page in PAGES
        for line in re.findall(r"(?:^ {4}|`|&& )(docker compose [-\w][^`\n]+)", page.read_text(), re.M)
    }
)


def services_in(words: list[str]) -> tuple[str, list[str], list[str]]:
    """(subcommand, services, what follows a service of `run`)"""
    profile = words.index("--profile") if "--profile" in words else None
    if profile is not None:
        assert words[profile + 1] in {each for of in SERVICES.values() for each in of.get("profiles", [])}
        words = words[:profile] + words[profile + 2 :]
    subcommand, *rest = words
    for option in ("--tail", "--scale"):
        if option in rest:
            at = rest.index(option)
            if option == "--scale":
                assert rest[at + 1].partition("=")[0] in SERVICES
            rest = rest[:at] + rest[at + 2 :]
    if subcommand == "exec":
        return subcommand, [next(word for word in rest if not word.startswith("--"))], []
    names = [word for word in rest if not word.startswith("--") or subcommand == "run"]
    if subcommand == "run":
        names = [word for word in names if word not in ("--rm", "--no-deps")]
        return subcommand, names[:1], names[1:]
    return subcommand, names, []


ASKED = [(page, line) for page, line in COMPOSE if re.search(r" run .*\bworker\b", line)]


@pytest.mark.parametrize(("page", "line"), ASKED)
def test_a_worker_is_asked_without_what_it_waits_for(page: str, line: str) -> None:
    """It waits for Redis and Postgres, and is asked about them while they are away."""
    assert "--no-deps" in shlex.split(line)


@pytest.mark.parametrize(("page", "line"), COMPOSE)
def test_docker_compose_is_asked_for_services_that_there_are(page: str, line: str) -> None:
    words = shlex.split(line.partition(" && ")[0])[2:]
    subcommand, services, command = services_in(words)
    assert subcommand in {"up", "ps", "logs", "run", "exec", "stop", "build"}
    assert set(services) <= SERVICES.keys()
    assert not command or command_exists(command)


SYSTEMCTL = re.findall(r"systemctl \w+(?: --now)? ([^`\n]+)", OPERATIONS.text + TROUBLESHOOTING.text)


def test_systemctl_is_asked_for_units_that_there_are() -> None:
    units = {path.stem for path in (ROOT / "ops/systemd").glob("*.service")}
    names = {name.strip("'") for line in SYSTEMCTL for name in line.split()}
    assert len(names) > 4
    assert {re.sub(r"@.*", "@", name) for name in names} <= units


@pytest.mark.parametrize("name", ["operations.md", "troubleshooting.md"])
def test_the_commands_of_riskstream_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heads.txt").touch()  # which one reads
    monkeypatch.chdir(tmp_path)
    text = Page(name).text
    lines = set(re.findall(r"(?:^ {4}|^|`)riskstream ([^`\n]+?)(?: {3,}.*| >> .*)?(?:`|$)", text, re.M))
    assert len(lines) > 15
    for line in lines:
        with suppress(click.MissingParameter):  # it is named, and not shown
            assert command_exists(shlex.split(line.replace(" …", ""))), line


def test_the_days_follow_from_the_bytes() -> None:
    table = {cells[0]: float(cells[1]) for cells in OPERATIONS.rows if len(cells) == 2 and cells[1].isdigit()}
    days = [cells for cells in OPERATIONS.rows if len(cells) == 4 and cells[1].endswith(" MB")]
    assert len(days) == 3
    row = table["a row of history"] + table["its part of the indexes"]
    for cells in days:
        rate, plain, compressed, redis = (float(re.sub(r"[, MB]", "", cell)) for cell in cells)
        assert plain == pytest.approx(rate * 86_400 * row / 1e6, rel=0.03)
        assert compressed == pytest.approx(rate * 86_400 * table["the same, compressed"] / 1e6, rel=0.03)
        assert redis == pytest.approx(rate * 600 * table["a snapshot in the stream"] / 1e6, rel=0.03)


def test_readme_leads_here() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in ("operations", "troubleshooting", "operate/kubernetes"):
        assert f"](docs/{page}.md)" in readme


def test_what_is_copied_by_hand_is_there() -> None:
    files = set(re.findall(r"\b((?:ops|db)/[\w./-]*\w)", OPERATIONS.text))
    assert {"ops/make-secrets", "ops/systemd/environment", "db/roles.sql"} <= files
    assert [name for name in files if not (ROOT / name).exists()] == []
