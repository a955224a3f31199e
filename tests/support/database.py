"""What tests ask of Postgres, and put there."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile
from typing import Any, Final

import psycopg

from risk_producer.contract.keys import Keys
from risk_worker.database import migrations
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import StreamEntry, decode_entries

STREAM = Keys(0).snapshots
MIGRATIONS: Final = sorted((Path(__file__).parents[2] / "db" / "migrations").glob("*.sql"))
HYPERTABLE: Final = "20261124000002_history_hypertable.sql"

ODD_DEFAULTS: Final = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "timezone": "Asia/Kolkata",
    "default_transaction_isolation": "serializable",
}
"""What an administrator may have set for a database."""


def set_odd_defaults(url: str) -> None:
    """From the next connection on."""
    with psycopg.connect(url, autocommit=True) as db:
        for name, value in ODD_DEFAULTS.items():
            db.execute(f"ALTER DATABASE {db.info.dbname} SET {name} = '{value}'".encode())


def rows(db: psycopg.Connection, query: str) -> list[Any]:
    """All rows of a query, as tuples."""
    return db.execute(query.encode()).fetchall()


def store_entries(url: str, *entries: StreamEntry) -> None:
    """Store stream entries of partition 0 as a drain does, in one batch."""
    with PostgresStore(url) as opened:
        opened.save(decode_entries(STREAM, entries))


def migrate_up_to(url: str, name: str, scratch: Path) -> None:
    """Apply the migrations as far as the one of that file name. scratch: an empty folder."""
    for path in MIGRATIONS:
        if path.name <= name:
            copyfile(path, scratch / path.name)
    migrations.up(url, folder=scratch)


def migrate_down(url: str, name: str) -> None:
    """Take back the migrations as far as the one of that file name, which is taken back too."""
    while name not in take_back(url):
        pass


def take_back(url: str) -> str:
    """Take the latest migration back with whatever rows it drops. Returns what was done."""
    _, rows = migrations.rows_to_drop(url)
    return migrations.down(url, drop_rows=sum(rows.values()))
