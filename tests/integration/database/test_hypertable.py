"""History as a hypertable: where TimescaleDB is loaded, and only there.

No package brings TimescaleDB along. The tests that need it run where TEST_TIMESCALE_URL points at one; how
the migration finds its way is tested everywhere, with an extension that only looks like it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import errors

from risk_devkit.embedded import EmbeddedPostgres
from risk_producer.errors import ConfigurationError
from risk_worker.audit import ledger
from risk_worker.cli import cli
from risk_worker.database import connection as database
from risk_worker.database import migrations
from tests.support.database import HYPERTABLE, migrate_down
from tests.support.forms import ALL_OK, use
from tests.support.servers import QUICK_POSTGRES, Databases, server_folder

MAKE_HYPERTABLE = "SELECT risk_history_to_hypertable()"
ROWS = "SELECT to_jsonb(h) FROM risk_state_history h ORDER BY seq"
START = datetime(2026, 1, 1, tzinfo=UTC)


def one(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def insert_days(connection: psycopg.Connection, days: range) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO risk_state_history (trader_id, recorded_at, epoch, seq, daily_pnl, drawdown_pct, "
            "current_equity, peak_equity, trading_paused, last_reset_time) "
            "VALUES ('t1', %s, 1, %s, 0, 0, 0, 0, false, now()) ON CONFLICT DO NOTHING",
            [(START + timedelta(days=day), day + 1) for day in days],
        )


def check_ready(url: str) -> None:
    database.connect(url, database.STORE).close()


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True)


def test_without_timescaledb_it_stays_a_plain_table_and_says_so(postgres_server: EmbeddedPostgres) -> None:
    url = Databases(postgres_server.url).create()
    assert migrations.up(url).endswith("risk_state_history is a plain table")
    with connect(url) as connection:
        assert one(connection, MAKE_HYPERTABLE) == "plain table: this server does not have TimescaleDB"
    check_ready(url)


class TestWithTimescale:
    """The real thing."""

    @pytest.fixture
    def url(self, timescale_url: str) -> str:
        assert migrations.up(timescale_url).endswith("risk_state_history is a hypertable")
        return timescale_url

    @pytest.fixture
    def connection(self, url: str) -> Iterator[psycopg.Connection]:
        with connect(url) as connection:
            yield connection

    def chunks(self, connection: psycopg.Connection) -> list[str]:
        rows = connection.execute("SELECT show_chunks('risk_state_history')::text").fetchall()
        return [name for (name,) in rows]

    def test_every_command_works_on_it(self, timescale_url: str, redis_url: str) -> None:
        """migrate, a worker's drain, verify, dead and load()."""
        assert use({"POSTGRES_URL": timescale_url}, redis_url) == ALL_OK
        with connect(timescale_url) as connection:
            assert len(self.chunks(connection)) == 1

    def test_is_a_hypertable_with_its_indexes(self, url: str, connection: psycopg.Connection) -> None:
        insert_days(connection, range(0, 28, 7))
        assert len(self.chunks(connection)) == 4
        assert one(connection, MAKE_HYPERTABLE) == "hypertable"
        indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'risk_state_history'"
        assert one(connection, indexes) == 2
        interval = "SELECT time_interval FROM timescaledb_information.dimensions"
        assert one(connection, interval) == timedelta(days=7)
        check_ready(url)

    def test_is_append_only_in_its_chunks_too(self, connection: psycopg.Connection) -> None:
        insert_days(connection, range(10))
        targets = ["risk_state_history", *self.chunks(connection)]
        for target in targets:
            for change in ("UPDATE {} SET reason = 'x'", "DELETE FROM {}"):
                with pytest.raises(errors.RaiseException, match="is append-only"):
                    connection.execute(change.format(target))
        with pytest.raises(errors.RaiseException, match="TRUNCATE is refused"):
            connection.execute("TRUNCATE risk_state_history")

    def test_a_replay_is_a_no_op(self, connection: psycopg.Connection) -> None:
        insert_days(connection, range(30))
        insert_days(connection, range(30))
        assert one(connection, "SELECT count(*) FROM risk_state_history") == 30

    def test_down_and_up_again_keep_rows_rules_and_grants(
        self, url: str, connection: psycopg.Connection
    ) -> None:
        role = f"reader_{connection.info.dbname}"
        connection.execute(f"CREATE ROLE {role}")
        try:
            connection.execute(f"GRANT SELECT, INSERT ON risk_state_history TO {role}")
            insert_days(connection, range(30))
            rows = connection.execute(ROWS).fetchall()
            before = migrations.schema_of(url)
            for undo in (True, False):
                if undo:
                    migrate_down(url, HYPERTABLE)
                else:
                    migrations.up(url)
                assert connection.execute(ROWS).fetchall() == rows
                assert len(self.chunks(connection) if not undo else []) == (0 if undo else 5)
                with pytest.raises(errors.RaiseException, match="TRUNCATE is refused"):
                    connection.execute("TRUNCATE risk_state_history")
                with pytest.raises(errors.RaiseException, match="DELETE is refused"):
                    connection.execute("DELETE FROM risk_state_history WHERE seq = 1")
                insert_days(connection, range(30))
                assert one(connection, "SELECT count(*) FROM risk_state_history") == 30
                for privilege, has in {"SELECT": True, "INSERT": True, "UPDATE": False}.items():
                    query = f"SELECT has_table_privilege('{role}', 'risk_state_history', '{privilege}')"
                    assert one(connection, query) is has
            assert migrations.schema_of(url) == before
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    def test_the_owner_of_the_database_needs_no_superuser(self, timescale_url: str) -> None:
        with connect(timescale_url) as admin:
            info = admin.info
            role = f"owner_{info.dbname}"
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
            admin.execute(f"ALTER DATABASE {info.dbname} OWNER TO {role}")
            try:
                migrations.up(f"postgresql://{role}:x@{info.host}:{info.port}/{info.dbname}")
                assert one(admin, MAKE_HYPERTABLE) == "hypertable"
            finally:
                admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
                admin.execute(f"DROP ROLE {role}")


@pytest.fixture(scope="module")
def extended() -> Iterator[Databases]:
    """Databases on a server that has the extension of TestFindingTheWay."""
    with server_folder() as folder:
        extensions = folder / "share"
        (extensions / "extension").mkdir(parents=True)
        (extensions / "extension" / "timescaledb.control").write_text(TestFindingTheWay.CONTROL)
        (extensions / "extension" / "timescaledb--1.sql").write_text(TestFindingTheWay.SCRIPT)
        config = {**QUICK_POSTGRES, "extension_control_path": f"{extensions}:$system"}
        with EmbeddedPostgres(folder, config=config) as server:
            yield Databases(server.url)


class TestFindingTheWay:
    """With an extension `timescaledb` that is only SQL: its create_hypertable moves and truncates as the
    real one does. It cannot be told from one that is not preloaded, unless a pg_settings says otherwise."""

    CONTROL = "default_version = '1'\nrelocatable = false\nschema = elsewhere\ntrusted = true\n"
    SCRIPT = """
        CREATE SCHEMA timescaledb_information;
        CREATE TABLE timescaledb_information.hypertables (
            hypertable_schema name, hypertable_name name, compression_enabled boolean DEFAULT false
        );
        CREATE TABLE timescaledb_information.jobs (
            hypertable_schema name, hypertable_name name, job_id int, proc_name name
        );
        CREATE TABLE timescaledb_information.continuous_aggregates (
            hypertable_schema name, hypertable_name name, view_name name
        );
        CREATE TABLE timescaledb_information.dimensions (
            hypertable_schema name, hypertable_name name, time_interval interval
        );
        CREATE TABLE calls (arguments text);
        CREATE FUNCTION by_range(name, partition_interval interval) RETURNS text LANGUAGE sql
            AS $$ SELECT $1 || ' by ' || partition_interval $$;
        CREATE FUNCTION create_hypertable(
            relation regclass, dimension text, create_default_indexes boolean,
            if_not_exists boolean, migrate_data boolean
        ) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO @extschema@.calls
                VALUES (format('%s %s %s', dimension, create_default_indexes, migrate_data));
            INSERT INTO timescaledb_information.hypertables
                SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
                WHERE pg_class.oid = relation;
            CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT * FROM risk_state_history;
            TRUNCATE risk_state_history;
            INSERT INTO risk_state_history SELECT * FROM moved;
        END $$;
    """
    LOADED = """
        CREATE VIEW public.pg_settings AS
            SELECT name FROM pg_catalog.pg_settings UNION SELECT 'timescaledb.max_background_workers';
        GRANT SELECT ON public.pg_settings TO PUBLIC;
        DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
        END $$;
    """

    @pytest.fixture
    def url(self, extended: Databases) -> str:
        """A fresh database without any table."""
        return extended.create()

    def test_present_but_not_preloaded(self, url: str) -> None:
        migrations.up(url)
        with connect(url) as connection:
            said = one(connection, MAKE_HYPERTABLE)
            assert said == "plain table: TimescaleDB is not in shared_preload_libraries"
            assert one(connection, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 0
        check_ready(url)
        migrate_down(url, HYPERTABLE)

    def test_created_but_not_preloaded_is_refused(self, url: str) -> None:
        """Rows would be out of sight, and new ones go astray, without any error."""
        migrations.up(url)
        with connect(url) as connection:
            connection.execute("CREATE EXTENSION timescaledb")
        for do in (check_ready, migrations.up, migrations.down, ledger.read):
            with pytest.raises(
                ConfigurationError, match="shared_preload_libraries = 'timescaledb' and restart"
            ):
                do(url)

    def test_created_but_not_preloaded_is_what_the_commands_say(self, url: str, redis_url: str) -> None:
        """And not, of rows that are out of sight, that they are lost, or that there are none."""
        migrations.up(url)
        with connect(url) as connection:
            connection.execute("CREATE EXTENSION timescaledb")
        environment = {**os.environ, "REDIS_URL": redis_url, "POSTGRES_URL": url}
        for command in (
            *(["verify"], ["verify", "--trader", "t1"], ["verify", "--json"]),
            *(["dead", "list"], ["dead", "list", "--json"], ["dead", "show", "s", "1-0"], ["dead", "retry"]),
            ["dead", "drop", "--all", "--yes"],
        ):
            done = CliRunner(env=environment).invoke(cli, command)
            assert (done.exit_code, done.stdout) == (2, ""), command
            assert "set shared_preload_libraries = 'timescaledb' and restart it" in done.stderr

    def test_loaded_after_rows_are_there(self, url: str) -> None:
        migrations.up(url)
        with connect(url) as connection:
            insert_days(connection, range(20))
            rows = connection.execute(ROWS).fetchall()
            connection.execute(self.LOADED)
        with connect(url) as connection:
            assert one(connection, MAKE_HYPERTABLE) == "hypertable"
            assert one(connection, MAKE_HYPERTABLE) == "hypertable"
            calls = connection.execute("SELECT arguments FROM elsewhere.calls").fetchall()
            assert calls == [("recorded_at by 7 days f t",)], "once, without default indexes"
            connection.execute("CREATE ROLE reader; GRANT SELECT ON risk_state_history TO reader, PUBLIC")
            with pytest.raises(errors.RaiseException, match="TRUNCATE is refused"):
                connection.execute("TRUNCATE risk_state_history")
        migrate_down(url, HYPERTABLE)
        with connect(url) as connection:
            assert connection.execute(ROWS).fetchall() == rows
            for change in ("TRUNCATE risk_state_history", "DELETE FROM risk_state_history"):
                with pytest.raises(errors.RaiseException, match="is append-only"):
                    connection.execute(change)
            assert one(connection, "SELECT has_table_privilege('reader', 'risk_state_history', 'SELECT')")
            comment = "SELECT obj_description('risk_state_history'::regclass, 'pg_class')"
            assert str(one(connection, comment)).startswith("Every accepted snapshot")

    def test_a_role_that_may_not_create_the_extension(self, url: str) -> None:
        with connect(url) as connection:
            connection.execute(self.LOADED)
            connection.execute("CREATE ROLE plain LOGIN; GRANT ALL ON SCHEMA public TO plain")
        plain_url = url.replace("postgres@", "plain@")
        migrations.up(plain_url)
        with connect(plain_url) as connection:
            said = str(one(connection, MAKE_HYPERTABLE))
        assert said.startswith("plain table: this role may not CREATE EXTENSION timescaledb")
