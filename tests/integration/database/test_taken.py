"""A database that a test takes is as new, whatever was done to it before: Databases of support/servers.py."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.support.database import rows, store_entries
from tests.support.factory import entry, payload
from tests.support.servers import Databases, name_in


def content(url: str) -> dict[str, list[object]]:
    with psycopg.connect(url) as db:
        tables = rows(
            db, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relname ~ '^risk_'"
        )
        return {name: rows(db, f"SELECT t::text FROM {name} t") for (name,) in tables}


def test_one_that_differs_in_rows_is_emptied(databases: Databases, migrated_template: str) -> None:
    url = databases.take(migrated_template)
    new = content(url)
    assert len(new) > 5
    with psycopg.connect(url) as left_open:
        left_open.execute("SELECT 1")
        store_entries(url, entry(1, b"nonsense"), entry(2, payload("a", 1)), entry(3, payload("b", 1)))
        with psycopg.connect(url) as db:
            db.execute("UPDATE risk_deployment SET id = %s", (uuid4(),))
            db.execute("CREATE TEMP TABLE aside AS TABLE risk_state")
        assert content(url) != new
        databases.give_back(url)
        with pytest.raises(psycopg.OperationalError):
            left_open.execute("SELECT 1")
    assert databases.take(migrated_template) == url
    assert content(url) == new
    databases.give_back(url)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE risk_state ADD CHECK (seq > 0)",
        "ALTER TABLE risk_state_history DISABLE TRIGGER USER",
        "DROP TABLE risk_dead_letter CASCADE",
        "CREATE SCHEMA x",
        "CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE VIEW x AS SELECT 1",
        "GRANT SELECT ON risk_state TO PUBLIC",
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        "ALTER DATABASE {} CONNECTION LIMIT 5",
        "ANALYZE pg_class; ANALYZE",
    ],
)
def test_one_that_differs_in_more_is_dropped(
    databases: Databases, migrated_template: str, statement: str
) -> None:
    url = databases.take(migrated_template)
    store_entries(url, entry(1, payload("a", 1)))
    with psycopg.connect(url, autocommit=True) as db:
        for each in statement.format(f'"{name_in(url)}"').split("; "):
            db.execute(each.encode())
    databases.give_back(url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)
