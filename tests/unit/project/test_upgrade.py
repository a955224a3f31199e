"""docs/upgrade.md: what a migration of a minor version must not do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MIGRATIONS = sorted((Path(__file__).parents[3] / "db" / "migrations").glob("*.sql"))
BREAKS = (
    r"\bDROP\s+(?:TABLE|VIEW|MATERIALIZED\s+VIEW|COLUMN|SCHEMA|TYPE)\b",
    r"\bRENAME\b",
    r"\bALTER\s+COLUMN\s+\S+\s+(?:SET\s+DATA\s+)?TYPE\b",
    r"\bSET\s+NOT\s+NULL\b",
    r"\bADD\s+COLUMN\b(?=[^;]*?\bNOT\s+NULL\b)(?![^;]*?\bDEFAULT\b)",
    r"\bTRUNCATE\s+(?:TABLE\s+)?risk_",
)
REPLACED = {"20261126000003_history_form.sql": ["DROP TABLE", "RENAME", "RENAME"]}
"""Migrations that make a table anew; tests/integration/test_upgrade.py compares the columns."""


def breaking(sql: str) -> list[str]:
    """What in the migrate:up part of a migration would break the version before."""
    up = sql.split("-- migrate:down")[0]
    plain = re.sub(r"--[^\n]*|'(?:[^']|'')*'", " ", up)
    return [found[0] for pattern in BREAKS for found in re.finditer(pattern, plain, re.I)]


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.name)
def test_a_migration_only_adds(path: Path) -> None:
    assert breaking(path.read_text()) == REPLACED.get(path.name, [])


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE risk_state;",
        "drop  view risk_pauses;",
        "ALTER TABLE risk_state DROP COLUMN reason;",
        "ALTER TABLE risk_state\n    RENAME COLUMN reason TO why;",
        "ALTER TABLE risk_state RENAME TO state;",
        "ALTER TABLE risk_state ALTER COLUMN epoch TYPE numeric;",
        "ALTER TABLE risk_state ALTER COLUMN epoch SET DATA TYPE numeric;",
        "ALTER TABLE risk_state ALTER COLUMN paused_until SET NOT NULL;",
        "ALTER TABLE risk_state ADD COLUMN desk text NOT NULL;",
        "TRUNCATE risk_state_history;",
    ],
)
def test_what_breaks_the_version_before_is_seen(statement: str) -> None:
    assert breaking(f"-- migrate:up\n{statement}\n-- migrate:down\n")


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE risk_state ADD COLUMN desk text;",
        "ALTER TABLE risk_state ADD COLUMN desk text NOT NULL DEFAULT '';",
        "CREATE VIEW risk_pauses AS SELECT 1;",
        "-- DROP TABLE would be wrong",
        "COMMENT ON TABLE risk_state IS 'DROP TABLE';",
        "-- migrate:down\nDROP TABLE risk_new;",
    ],
)
def test_what_only_adds_is_let_pass(statement: str) -> None:
    assert breaking(f"-- migrate:up\n{statement}\n") == []
