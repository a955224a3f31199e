"""The servers that tests run against: embedded ones of the session's own, or outside ones by URL."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psycopg import sql

# Quick, and safe enough for data that nobody wants back.
QUICK_POSTGRES: dict[str, str | int | float | bool] = {
    "fsync": False,
    "full_page_writes": False,
    "max_connections": 60,
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "autovacuum": False,  # it writes into the catalogs, and a database that differs there is not used again
}


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder for the data of servers, gone afterwards. Short, and not among pytest's own, which nobody
    but their owner may enter: Postgres runs as another user than root."""
    folder = Path(tempfile.mkdtemp(prefix="riskstream-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# What a definition of any kind leaves a row in, of all that is in a database and of the database itself.
_CATALOGS = (
    *("pg_class WHERE relpersistence <> 't'", "pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'"),
    *("pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_inherits", "pg_sequence", "pg_trigger"),
    *("pg_rewrite", "pg_proc", "pg_type", "pg_policy", "pg_extension", "pg_event_trigger", "pg_default_acl"),
    *("pg_publication", "pg_statistic", "pg_statistic_ext", "pg_description"),
    "pg_database WHERE datname = current_database()",
    "pg_db_role_setting WHERE setdatabase IN"
    " (0, (SELECT oid FROM pg_database WHERE datname = current_database()))",
)
_DEFINITIONS = sql.SQL(
    " UNION ALL ".join(
        f"SELECT {number}, count(*), max(xmin::text::bigint) FROM {each}"
        for number, each in enumerate(_CATALOGS)
    )
)
_TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'r' AND relpersistence <> 't' AND pg_relation_size(oid) > 0
        AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""


class Databases:
    """Databases of a test's own on one Postgres server. As a context manager it has one connection that makes
    them, and drops all of them at the end.

    To make one costs a third of a second of processor time, to empty one a tenth of it. So a test takes one
    that another has given back, where that differed from a new one in its rows alone.
    """

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._made: list[str] = []
        self._admin: psycopg.Connection | None = None
        self._taken: dict[str, Copied] = {}
        self._free: list[Copied] = []

    def take(self, template: str) -> str:
        """A database like a copy of `template`, the last that was given back; returns its libpq URL."""
        fitting = [copied for copied in self._free if copied.template == template]
        if fitting:
            self._free.remove(fitting[-1])
        copied = fitting[-1] if fitting else Copied(template, self.create(template))
        self._taken[copied.url] = copied
        return copied.url

    def give_back(self, url: str) -> None:
        """Empty one that was taken, for the next that takes one; drop it where it differs in more."""
        copied = self._taken.pop(url)
        try:
            emptied = copied.empty()
        except psycopg.Error:
            emptied = False
        if emptied:
            self._free.append(copied)
        else:
            self.drop(url)

    def create(self, template: str | None = None) -> str:
        """Make a database, empty or as a copy of the one at URL `template`; returns its libpq URL."""
        name = f"test_{os.getpid()}_{uuid4().hex[:8]}"
        source = name_in(template) if template else "template0"
        with self._connected() as connection:
            has_strategies = connection.info.server_version >= 150_000
        quick = " STRATEGY file_copy" if has_strategies else ""
        self._execute("CREATE DATABASE {} TEMPLATE {}" + quick, name, source)
        self._made.append(name)
        return with_name(self._admin_url, name)

    def seal(self, url: str) -> None:
        """Let nobody connect any more, and end who is: a database that is in use cannot be copied.

        TimescaleDB's own background workers connect to every database by themselves.
        """
        name = name_in(url)
        self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
        with self._connected() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
            )

    def drop(self, url: str) -> None:
        """Drop a database made here, whoever is still connected to it."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name_in(url))
        self._made.remove(name_in(url))

    def drop_all(self) -> None:
        """Drop whatever was made here and is still there."""
        for name in list(self._made):
            self.drop(with_name(self._admin_url, name))

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        """Its connection, or one for the moment."""
        if self._admin is not None and not self._admin.closed:
            yield self._admin
        else:
            with psycopg.connect(self._admin_url, autocommit=True, connect_timeout=10) as connection:
                yield connection

    def _execute(self, statement: LiteralString, *names: str) -> None:
        with self._connected() as connection:
            connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))

    def __enter__(self) -> Self:
        self._admin = psycopg.connect(self._admin_url, autocommit=True, connect_timeout=10)
        return self

    def __exit__(self, *_error: object) -> None:
        self.drop_all()
        assert self._admin is not None
        self._admin.close()


class Copied:
    """A copy of a database, which knows what was in it when it was made."""

    def __init__(self, template: str, url: str) -> None:
        self.template = template
        self.url = url
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as db:
            self._definitions = _definitions(db)
            self._rows = {table: _rows(db, table) for (table,) in db.execute(_TABLES).fetchall()}

    def empty(self) -> bool:
        """Have the rows that it had. False: it differs in more than rows. Ends whoever is connected."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            if _definitions(db) != self._definitions:
                return False
            filled = [table for (table,) in db.execute(_TABLES).fetchall()]
            changed = [
                each for each in filled if each not in self._rows or self._rows[each] != _rows(db, each)
            ]
            if changed:
                db.execute("SET session_replication_role = replica")  # no trigger is asked
                db.execute(f"TRUNCATE {', '.join(changed)} RESTART IDENTITY CASCADE".encode())
                for table, rows in self._rows.items():
                    if _rows(db, table) != rows:
                        with db.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
                            copy.write(rows)
                self._definitions = _definitions(db)  # to truncate a table is to define it anew
            return True


def _definitions(db: psycopg.Connection) -> list[Any]:
    """For each catalog how many rows it has, and which transaction wrote the newest."""
    return sorted(db.execute(_DEFINITIONS).fetchall())


def _rows(db: psycopg.Connection, table: str) -> bytes:
    """All rows of a table, as COPY gives them."""
    with db.cursor().copy(f"COPY {table} TO STDOUT".encode()) as copy:
        return b"".join(bytes(block) for block in copy)


def name_in(url: str) -> str:
    """The database's name in a URL."""
    return urlsplit(url).path.removeprefix("/")


def with_name(url: str, name: str) -> str:
    """The URL with another database's name."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
