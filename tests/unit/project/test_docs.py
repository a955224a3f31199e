"""The pages of docs are consistent: decisions, glossary, links, and the files of the repository's habits."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(path for path in DECISIONS.glob("*.md") if path.name != "README.md")
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md"), *ROOT.glob("tests/*.md")]
)


class TestDecisions:
    def test_numbers_are_without_gaps(self) -> None:
        assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))

    @pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
    def test_a_record_has_the_form(self, path: Path) -> None:
        text = path.read_text()
        form = re.match(
            r"# (\d{4})\. (?P<title>.+)\n\n- Status: (?P<status>.+)\n"
            r"- Date: (?P<date>\d{4}-\d\d-\d\d)\n\n"
            r"## Context\n(?P<context>.+?)"
            r"## Decision\n(?P<decision>.+?)## Consequences\n(?P<consequences>.+)",
            text,
            re.S,
        )
        assert form is not None
        assert form[1] == path.name[:4]
        assert date.fromisoformat(form["date"]) >= date(2026, 11, 24)
        assert re.match(r"(accepted|superseded by \[\d{4}\])", form["status"])
        for part in ("context", "decision", "consequences"):
            assert form[part].strip()
        row = f"| [{form[1]}]({path.name}) | {form['date']} | {form['status']} | {form['title']} |"
        assert row in (DECISIONS / "README.md").read_text().splitlines()

    def test_the_table_has_no_other_row(self) -> None:
        assert len(re.findall(r"^\| \[\d{4}\]", (DECISIONS / "README.md").read_text(), re.M)) == len(RECORDS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", target):
            name, _, anchor = target.partition("#")
            found = path.parent / name if name else path
            assert found.exists(), target
            if anchor:
                assert anchor in anchors(found), target


def anchors(path: Path) -> set[str]:
    """What headings of a page can be linked to."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


class TestExamples:
    """mypy checks the files of examples/; the pages hold them as they are. Other tests run the pages."""

    BLOCKS = [  # noqa: RUF012
        (path.name, name, code)
        for path in PAGES
        for name, code in re.findall(
            r"(?:<!-- examples/(\S+) -->\n)?```python\n(.*?)```", path.read_text(), re.S
        )
    ]

    @pytest.mark.parametrize(("page", "name", "code"), BLOCKS)
    def test_a_page_holds_the_file(self, page: str, name: str, code: str) -> None:
        assert name, f"a block of {page} has no line <!-- examples/NAME.py --> before it:\n{code}"
        assert (ROOT / "examples" / name).read_text() == code

    def test_every_file_is_on_a_page(self) -> None:
        assert {path.name for path in ROOT.glob("examples/*")} - {"__pycache__"} == {
            n for _, n, _ in self.BLOCKS
        }


def test_pre_commit_checks_what_make_check_checks() -> None:
    """By the tools of .venv, which constraints.txt pins: nothing is fetched."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert not any(hook["pass_filenames"] for hook in hooks)
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == commands


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_has_what_a_form_needs(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_commits_to_ignore_are_whole_hashes() -> None:
    lines = (ROOT / ".git-blame-ignore-revs").read_text().splitlines()
    assert all(re.fullmatch(r"(#.*|[0-9a-f]{40})?", line) for line in lines)


class TestGlossary:
    TERMS = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.M)

    def test_terms_are_in_order(self) -> None:
        assert self.TERMS
        assert sorted(set(self.TERMS), key=str.casefold) == self.TERMS

    @pytest.mark.parametrize("entry", (ROOT / "docs" / "glossary.md").read_text().split("\n\n")[2:])
    def test_an_entry_is_a_term_and_its_meaning(self, entry: str) -> None:
        assert re.fullmatch(r"\*\*[^*]+\*\*: [^\n].*\.", entry.strip(), re.S)
