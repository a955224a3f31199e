"""The servers that tests run against: embedded ones of the session's own, or outside ones by URL."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


class Databases:
    """Databases of a test's own on one Postgres server. One connection makes and drops them all."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._made: list[str] = []
        self._admin: psycopg.Connection | None = None

    def create(self, template: str | None = None) -> str:
        """Make a database, empty or as a copy of the one at URL `template`; returns its libpq URL."""
        name = f"test_{os.getpid()}_{uuid4().hex[:8]}"
        source = name_in(template) if template else "template0"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, source)
        self._made.append(name)
        return with_name(self._admin_url, name)

    def seal(self, url: str) -> None:
        """Let nobody connect any more, and end who is: a database that is in use cannot be copied.

        TimescaleDB's own background workers connect to every database by themselves.
        """
        name = name_in(url)
        self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
        self._connected().execute(
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
        if self._admin is not None:
            self._admin.close()

    def _connected(self) -> psycopg.Connection:
        """The connection, made anew where a test has ended it."""
        if self._admin is None or self._admin.closed:
            self._admin = psycopg.connect(self._admin_url, autocommit=True, connect_timeout=10)
        return self._admin

    def _execute(self, statement: str, *names: str) -> None:
        self._connected().execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


def name_in(url: str) -> str:
    """The database's name in a URL."""
    return urlsplit(url).path.removeprefix("/")


def with_name(url: str, name: str) -> str:
    """The URL with another database's name."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
