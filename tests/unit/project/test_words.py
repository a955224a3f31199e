"""The product's words: what docs/glossary.md names has one name, in code, logs, help and pages.

Left of the table below stand words that were once used for the same things. Words that are common in other
meanings too (found, place, taken, twice) are not looked for.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

TERMS = {
    "dead letter": "bury buries buried burying grave graves letter letters",
    "incarnation": "life lives",
    "scheduler": "roster put_back",
    "confirm": "settle settles settled settling",
    "transit grace period": "limbo",
    "unclaimed trader": "stranger strangers",
    "survivor": "heir heirs",
    "cancel": "withdraw withdraws withdrawn",
    "partition": "lane lanes stray strays astray",
    "time slice": "shift shifts",
    "ledger": "book books",
    "reconciliation": "balance balances balanced verdict verdicts",
    "gap": "hole holes",
    "disposition": "judge judges judged",
    "repair": "heal heals healed healing",
}
"""Term of the glossary -> words that are not used for it."""
NAME_THE_ACTOR = "somebody nobody anybody everybody whoever told said whereabouts patience"
"""Prose and names say which component does what; these leave it open, or were names of single classes."""

ALLOWED = {
    ".env.example": {"letters"},  # of the alphabet
    # What was renamed.
    "CHANGELOG.md": {"balanced", "holes", "lives", "stray"},
    "docs/security.md": {"nobody"},  # in the name of a test
    "docs/frameworks.md": {"balance"},  # NautilusTrader's balance_total
    "docs/upgrade.md": {"balanced", "holes", "lives", "stray"},
    "producer/risk_producer/settings/urls.py": {"balance"},  # load_balance_hosts is libpq's
}
"""File -> words that it may have all the same."""

FOLDERS = ("producer", "worker", "devkit", "benchmarks", "examples", "db", "docs", ".github")
OTHERS = {"Makefile", "Dockerfile", "Procfile", ".env.example"}
SUFFIXES = {".py", ".lua", ".sql", ".md", ".yml", ".toml"}


def names() -> list[str]:
    """Code and pages. Decisions are not rewritten: they speak as of their date."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    found += [path for path in ROOT.iterdir() if path.suffix in SUFFIXES or path.name in OTHERS]
    return sorted(str(path.relative_to(ROOT)) for path in found if "decisions" not in path.parts)


def pattern(words: str) -> re.Pattern[str]:
    """Whole words, also as a part of a name with underscores; "letter" in "dead letter" is none of them."""
    either = "|".join(words.split())
    return re.compile(rf"(?<![A-Za-z])(?<!dead[ _-])({either})(?![A-Za-z])", re.IGNORECASE)


EVERY = pattern(" ".join([*TERMS.values(), NAME_THE_ACTOR]))


def found_in(text: str) -> set[str]:
    """The words in a text that are not used."""
    return {each.lower() for each in EVERY.findall(" ".join(text.split()))}


def test_no_word_is_used_beside_the_glossary() -> None:
    found = {name: found_in((ROOT / name).read_text()) - ALLOWED.get(name, set()) for name in names()}
    assert {name: sorted(words) for name, words in found.items() if words} == {}


def test_the_files_are_found() -> None:
    found = set(names())
    assert {"README.md", "producer/risk_producer/transport/admit.lua", "docs/reference/cli.md"} <= found
    assert ALLOWED.keys() <= found


@pytest.mark.parametrize("term", TERMS)
def test_the_glossary_has_the_term(term: str) -> None:
    assert f"**{term}**: " in (ROOT / "docs" / "glossary.md").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("for letter in letters:", {"letter", "letters"}),
        ("dead letters, a dead_letter, DeadLetterRow, the dead\nletters", set()),
        ("_stray_length", {"stray"}),
        ("Nobody drains it", {"nobody"}),
        ("counters live in Redis; a lifetime; whole; rebalanced; the holes", {"holes"}),
    ],
)
def test_a_word_is_found_as_a_word(text: str, words: set[str]) -> None:
    assert found_in(text) == words
