"""The roles in Postgres: each can do its job, as a role that logs in, and every step beyond it is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Final
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.database import grants, migrations
from risk_worker.seal.sealer import WINDOWS, Sealer
from risk_worker.timescale.enable import enable
from risk_worker.timescale.retention import retain
from tests.support.database import STREAM, rows, store_entries
from tests.support.history import DAY, TODAY, fill
from tests.support.servers import Databases

PAGE: Final = Path(__file__).parents[3] / "docs" / "operate" / "postgres-roles.md"
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

    def drop(self) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            names = [self.login(name) for name in NAMES] + [f"{self.prefix}_{name}" for name in NAMES]
            there = [name for (name,) in admin.execute("SELECT rolname FROM pg_roles") if name in names]
            for name in there:
                admin.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}".encode())
            for name in there:
                admin.execute(f"DROP ROLE {name}".encode())


def made(url: str) -> Iterator[Roles]:
    """As docs/operate/postgres-roles.md tells: the roles, the migrations by the owner, the grants by the owner."""
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
    """On a hypertable with all that TimescaleDB has, made before the roles: they take it over. Two of the chunks
    are compressed, and one is newer than the grants."""
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
                refused = error.sqlstate in ("55000", "0A000") and not may  # a view
            assert refused is not may, (statement, may)
            tried += 1
    assert tried > 200


OWNER: Final = "GRANT {owner} TO {login}"
SET_REPLICA: Final = "GRANT SET ON PARAMETER session_replication_role TO {login}"
ROW: Final = (
    "(trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, current_equity, peak_equity, trading_paused,"
    " last_reset_time, stored_at) SELECT 'x', now(), 1, 1, 0, 0, 0, 0, false, now(), now() - interval '1 day'"
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
    ("GRANT DELETE ON risk_state_history TO CURRENT_USER", OWNER),
    ("SET ROLE {owner}", OWNER),
    ("REASSIGN OWNED BY {owner} TO CURRENT_USER", OWNER),
    ("SET session_replication_role = replica", SET_REPLICA),
    ("COPY risk_deployment TO PROGRAM 'true'", "GRANT pg_execute_server_program TO {login}"),
    ("SELECT pg_read_file('PG_VERSION')", "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {login}"),
    ("SELECT rolpassword FROM pg_authid", "GRANT SELECT ON pg_authid TO {login}"),
    ("UPDATE risk_seal_run SET rows = 0", "GRANT UPDATE ON risk_seal_run TO {login}"),
    ("DELETE FROM risk_seal", "GRANT DELETE ON risk_seal TO {login}"),
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
            with pytest.raises(psycopg.errors.InsufficientPrivilege), db.transaction(force_rollback=True):
                db.execute(statement)
            if group != "writer" or b"PARAMETER" in grant and admin.info.server_version < 150_000:
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


def test_nobody_can_log_in_as_the_owner(roles: Roles) -> None:
    owner = roles.url("owner").replace(roles.login("owner"), f"{roles.prefix}_owner")
    for url in (owner, owner.replace(":x@", "@")):
        with pytest.raises(psycopg.OperationalError, match="too many connections|password"):
            psycopg.connect(url).close()
    with psycopg.connect(roles.admin_url) as admin:
        assert rows(
            admin,
            "SELECT rolpassword, rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls"
            f" FROM pg_authid WHERE rolname = '{roles.prefix}_owner'",
        ) == [(None, True, False)]
