"""Every statement of every .sql file in the packages fits the tables that the migrations make.

Queries and DML are PREPAREd, so that Postgres checks names and types and runs nothing. The rest (COPY, CREATE
TEMP, SET LOCAL) is executed in a transaction that is rolled back. Walking the packages finds the files. A
statement with the comment line `-- requires: timescaledb` needs a server that has it, and is skipped else;
one with `-- requires: original` is about the tables of the system that riskstream replaces. One with
`-- before: NAME` is the beginning of the statement NAME of its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import LiteralString, cast

import psycopg
import pytest

import risk_devkit
import risk_producer
import risk_worker
from risk_producer.contract.statements import statements
from risk_worker.database import migrations
from tests.support import original
from tests.support.servers import Databases

PREPARED = {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "WITH", "TABLE"}
REQUIRES_ORIGINAL = re.compile(r"^\s*-- requires: original$", re.MULTILINE)
REQUIRES_TIMESCALEDB = re.compile(r"^\s*-- requires: timescaledb$", re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """One statement of a file."""

    package: str
    file: str
    name: str
    text: LiteralString

    def __str__(self) -> str:
        return f"{self.package}/{self.file}:{self.name}"

    @property
    def code(self) -> str:
        """Without comments."""
        return re.sub(r"--[^\n]*", "", self.text).strip()

    @property
    def kind(self) -> str:
        return self.code.split(maxsplit=1)[0].upper()

    @property
    def with_numbers(self) -> str:
        """Its placeholders as PREPARE wants them: $1, $2 ... instead of %(name)s or %s."""
        numbers: dict[str, int] = {}

        def number(found: re.Match[str]) -> str:
            if found[0] == "%%":
                return "%"
            name = found[1] or f"%{len(numbers)}"
            return f"${numbers.setdefault(name, len(numbers) + 1)}"

        text = self.text.replace("{table}", "risk_state")  # a name that is filled in
        return re.sub(r"%%|%\((\w+)\)[sbt]|%[sbt]", number, text)


def found() -> Iterator[Statement]:
    for package in (risk_devkit, risk_producer, risk_worker):
        [root] = package.__path__
        for path in sorted(Path(root).rglob("*.sql")):
            if "_db" in path.parts:
                continue  # the migrations, in a wheel
            name = ".".join([package.__name__, *path.parent.relative_to(root).parts])
            import_module(name)
            for key, text in statements(name, path.name).items():
                yield Statement(name, path.name, key, text)


BEFORE = re.compile(r"^-- before: (\w+)$", re.MULTILINE)


def whole(pieces: list[Statement]) -> Iterator[Statement]:
    """The statements, each with the one that it stands before; that one is none by itself."""
    of = {(each.package, each.file, each.name): each for each in pieces}
    ends = set()
    for each in pieces:
        if before := BEFORE.search(each.text):
            end = of[each.package, each.file, before[1]]
            ends.add(end)
            yield replace(each, text=each.text + "\n" + end.text)
    yield from (each for each in pieces if each not in ends and not BEFORE.search(each.text))


STATEMENTS = list(whole(list(found())))


@pytest.fixture(scope="module")
def migrated_url(databases: Databases, migrated_template: str) -> Iterator[str]:
    """A migrated database for the whole module: nothing here leaves anything in it."""
    url = databases.create(migrated_template)
    yield url
    databases.drop(url)


def check(url: str, statement: Statement) -> None:
    """Raises psycopg.Error where the statement does not fit the tables."""
    with psycopg.connect(url) as connection, connection.transaction(force_rollback=True):
        about_original = REQUIRES_ORIGINAL.search(statement.text)
        if about_original:
            connection.execute("CREATE SCHEMA old_risk; SET LOCAL search_path = old_risk")
            connection.execute(original.TABLES)
            connection.execute("SET LOCAL search_path TO DEFAULT")
        for other in STATEMENTS:  # the temporary tables that it may name
            same_file = (other.package, other.file) == (statement.package, statement.file)
            if (
                same_file
                and other != statement
                and (about_original or not REQUIRES_ORIGINAL.search(other.text))
            ):
                create_temporary(connection, other)
        if statement.kind in PREPARED:
            connection.execute(f"PREPARE checked AS {statement.with_numbers}".encode())
        elif statement.kind == "COPY":
            with connection.cursor() as cursor, cursor.copy(statement.text) as copy:
                if "STDIN" in statement.code.upper() and "BINARY" in statement.code.upper():
                    copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\xff\xff")  # no row
        else:
            create_temporary(connection, statement) or connection.execute(statement.text)


def create_temporary(connection: psycopg.Connection, statement: Statement) -> bool:
    """Create the table of a CREATE TEMP, in the place of one with the same name. False: it is no such."""
    table = re.match(r"CREATE TEMP(?:ORARY)? TABLE (?:IF NOT EXISTS )?(\w+)", statement.code, re.IGNORECASE)
    if table is None:
        return False
    connection.execute(f"DROP TABLE IF EXISTS pg_temp.{table[1]}".encode())
    connection.execute(statement.text)
    return True


def test_the_files_are_found() -> None:
    files = {(statement.package, statement.file) for statement in STATEMENTS}
    assert {("risk_worker.audit", "ledger.sql"), ("risk_worker.dead_letters", "select.sql")} <= files


@pytest.mark.parametrize("statement", STATEMENTS, ids=str)
def test_it_fits_the_tables(request: pytest.FixtureRequest, migrated_url: str, statement: Statement) -> None:
    if REQUIRES_TIMESCALEDB.search(statement.text):
        url = cast(str, request.getfixturevalue("timescale_url"))
        migrations.up(url)
    else:
        url = migrated_url
    check(url, statement)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT no_such_column FROM risk_state",
        "SELECT epoch FROM risk_state WHERE trader_id = %(epoch)s::bigint",
        "-- Why.\nINSERT INTO risk_state (no_such_column) VALUES (%s)",
        "UPDATE risk_dead_letter SET no_such_column = %(x)s",
        "DELETE FROM no_such_table",
        "COPY risk_state_history (no_such_column) FROM STDIN (FORMAT binary)",
        "CREATE TEMP TABLE staging (trader_id no_such_type)",
        "SET LOCAL no_such_setting = 1",
    ],
)
def test_a_statement_that_does_not_fit_is_found(migrated_url: str, text: LiteralString) -> None:
    with pytest.raises(psycopg.Error):
        check(migrated_url, Statement("risk_worker.audit", "ledger.sql", "wrong", text))


def test_filters_of_dead_letters_are_the_same_in_each_statement() -> None:
    conditions = {
        tuple(re.findall(r"\(%\(\w+\)s::\w+ IS NULL OR .*\)", statement.text))
        for statement in STATEMENTS
        if (statement.package, statement.file) == ("risk_worker.dead_letters", "select.sql")
    }
    assert len(conditions) == 1
    assert len(conditions.pop()) == 7
