"""The migration that makes history anew, with rows in it: on a plain table and on a hypertable."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from risk_devkit.embedded import EmbeddedPostgres
from risk_worker.database import migrations
from risk_worker.database.columns import COLUMNS
from risk_worker.database.migrations import MigrationError
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Outcome, decode_entries
from tests.support.database import HYPERTABLE, STREAM, migrate_down, migrate_up_to
from tests.support.factory import entry, payload
from tests.support.servers import Databases, name_in

FORM = "20261126000003_history_form.sql"
CHANGE = "ALTER TABLE risk_state_history"
ROWS = "SELECT to_jsonb(h), daily_pnl::text FROM risk_state_history h ORDER BY trader_id, seq"
FILL = """
    INSERT INTO risk_state_history (
        trader_id, recorded_at, epoch, seq, trace_id, reason, daily_pnl, drawdown_pct, current_equity,
        peak_equity, trading_paused, paused_until, last_reset_time, merged, stored_at
    )
    SELECT 'é' || n % 3, timestamptz '2026-01-01Z' + n * interval '4 h', 7, n, 'trace-' || n, repeat('ü', n),
        CASE n % 3 WHEN 0 THEN '-0' WHEN 1 THEN 5e-324 ELSE 1.7976931348623157e308 END, 0.1, -1.5, n,
        n % 2 = 0, CASE WHEN n % 2 = 0 THEN timestamptz 'infinity' END, '2026-01-01Z', n - 1,
        timestamptz '2026-03-01Z' - n * interval '1 microsecond'
    FROM generate_series(1, 100) AS n
"""

SETTINGS = f"""
    ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO ROOM_r1;
    REVOKE ALL ON risk_state_history FROM PUBLIC, CURRENT_USER;
    GRANT SELECT, INSERT, DELETE ON risk_state_history TO CURRENT_USER;
    GRANT SELECT (seq) ON risk_state_history TO ROOM_r2;
    {CHANGE} SET TABLESPACE ROOM;
    {CHANGE} SET (fillfactor = 90, toast.autovacuum_enabled = off);
    {CHANGE} ALTER reason SET STORAGE EXTERNAL, ALTER reason SET COMPRESSION pglz,
        ALTER reason SET STATISTICS 7, ALTER trader_id SET (n_distinct = 42),
        ALTER trace_id SET DEFAULT 'none', ALTER stored_at DROP DEFAULT;
    ALTER INDEX risk_state_history_pkey SET (fillfactor = 80);
    ALTER INDEX risk_state_history_pkey SET TABLESPACE ROOM;
    {CHANGE} ADD CONSTRAINT once UNIQUE (trader_id, epoch, seq, recorded_at) WITH (fillfactor = 70);
    COMMENT ON CONSTRAINT once ON risk_state_history IS 'why';
    CREATE INDEX by_reason ON risk_state_history (reason) TABLESPACE ROOM;
    COMMENT ON INDEX by_reason IS 'who asks';
    {CHANGE} CLUSTER ON by_reason;
    {CHANGE} REPLICA IDENTITY USING INDEX once;
    CREATE STATISTICS together (dependencies) ON trader_id, reason FROM risk_state_history;
    CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER look BEFORE INSERT ON risk_state_history FOR EACH ROW EXECUTE FUNCTION look();
    COMMENT ON TRIGGER look ON risk_state_history IS 'it looks';
    {CHANGE} ENABLE ALWAYS TRIGGER look;
    {CHANGE} DISABLE TRIGGER risk_state_history_append_only_row
"""
OWN = "'risk_state_history'::regclass"
LOOKS = [
    "SELECT relowner, reltablespace, relreplident, reloptions,"
    " (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(relacl) x),"
    " (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid)"
    f" FROM pg_class c WHERE oid = {OWN}",
    "SELECT attname, attstorage, attcompression, attstattarget, attoptions, attacl,"
    " pg_get_expr(adbin, adrelid)"
    f" FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = {OWN}"
    " AND attnum > 0 ORDER BY 1",
    "SELECT relname, reltablespace, reloptions, indisclustered, indisreplident, obj_description(indexrelid)"
    f" FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = {OWN}"
    " AND relname <> 'risk_state_history_stored_at' ORDER BY 1",
    "SELECT conname, pg_get_constraintdef(oid), obj_description(oid) FROM pg_constraint"
    f" WHERE conrelid = {OWN} AND contype <> 'n' ORDER BY 1",
    f"SELECT tgname, tgenabled, obj_description(oid) FROM pg_trigger WHERE tgrelid = {OWN}"
    " AND tgname <> 'risk_state_history_closed' ORDER BY 1",
    f"SELECT stxname, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = {OWN}",
]


@pytest.fixture(params=["plain", "hypertable"])
def older_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database as the version before left it, with rows."""
    fixture = "empty_database_url" if request.param == "plain" else "timescale_url"
    url: str = request.getfixturevalue(fixture)
    migrate_up_to(url, HYPERTABLE, tmp_path)
    with psycopg.connect(url) as db:
        db.execute(FILL)
    return url


def test_rows_and_what_was_made_on_the_table_are_kept(older_url: str) -> None:
    with psycopg.connect(older_url, autocommit=True) as db:
        role = f"reader_{db.info.dbname}"
        db.execute(f"CREATE ROLE {role}")
        db.execute(
            f"GRANT SELECT, INSERT ON risk_state_history TO {role} WITH GRANT OPTION;"
            f"GRANT UPDATE (reason) ON risk_state_history TO {role};"
            "GRANT SELECT ON risk_state_history TO PUBLIC;"
            "CREATE INDEX by_reason ON risk_state_history (reason);"
            "ALTER TABLE risk_state_history ADD CONSTRAINT a_limit CHECK (peak_equity < 1000);"
            "ALTER TABLE risk_state_history SET (autovacuum_vacuum_scale_factor = 0.05);"
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
            "CREATE TRIGGER look BEFORE INSERT ON risk_state_history FOR EACH ROW EXECUTE FUNCTION look()"
        )
        try:
            before = db.execute(ROWS).fetchall()
            assert FORM in migrations.up(older_url)
            for again in (False, True):
                if again:
                    migrate_down(older_url, FORM)
                    assert db.execute(ROWS).fetchall() == before
                    migrations.up(older_url)
                assert db.execute(ROWS).fetchall() == before
                assert db.execute(
                    "SELECT bool_and(has_table_privilege(%(role)s, h, p)),"
                    " has_table_privilege(%(role)s, h, 'DELETE'),"
                    " has_column_privilege(%(role)s, h, 'reason', 'UPDATE'),"
                    " has_column_privilege(%(role)s, h, 'seq', 'UPDATE')"
                    " FROM (VALUES ('risk_state_history', 'SELECT WITH GRANT OPTION'),"
                    " ('risk_state_history', 'INSERT WITH GRANT OPTION')) AS v (h, p) GROUP BY h",
                    {"role": role},
                ).fetchall() == [(True, False, True, False)]
                kept = db.execute(
                    "SELECT count(*) FILTER (WHERE conname = 'a_limit'),"
                    " count(*) FILTER (WHERE contype = 'c'),"
                    " (SELECT count(*) FROM pg_trigger WHERE tgrelid = conrelid AND tgname = 'look'),"
                    " (SELECT count(*) FROM pg_indexes WHERE indexname = 'by_reason'),"
                    " (SELECT array_to_string(reloptions, ',') FROM pg_class c WHERE c.oid = conrelid)"
                    " FROM pg_constraint WHERE conrelid = 'risk_state_history'::regclass GROUP BY conrelid"
                ).fetchall()
                assert kept == [(1, 11, 1, 1, "autovacuum_vacuum_scale_factor=0.05")]
                for change in ("DELETE FROM risk_state_history", "TRUNCATE risk_state_history"):
                    with pytest.raises(errors.RaiseException, match="is append-only"):
                        db.execute(change)
        finally:
            db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_replay_of_what_was_moved_is_a_no_op(older_url: str) -> None:
    batch = decode_entries(STREAM, [entry(number, payload("t1", number)) for number in (1, 2)])
    places = ", ".join(["%s"] * len(COLUMNS))
    insert = f"INSERT INTO risk_state_history ({', '.join(COLUMNS)}) VALUES ({places})"
    with psycopg.connect(older_url) as db, db.cursor() as cursor:
        cursor.executemany(
            insert.encode(), [[getattr(row.snapshot, name) for name in COLUMNS] for row in batch.rows]
        )
    migrations.up(older_url)
    with PostgresStore(older_url) as store:
        assert store.save(batch) == Outcome([], duplicates=2)


def test_rows_lie_in_the_order_in_which_they_were_stored(older_url: str) -> None:
    migrations.up(older_url)
    with psycopg.connect(older_url) as db:
        found = db.execute(
            "SELECT tableoid, array_agg(stored_at ORDER BY ctid) FROM risk_state_history GROUP BY 1"
        ).fetchall()
    assert all(times == sorted(times) for _, times in found)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (f"{CHANGE} ADD COLUMN desk text", "the column desk"),
        (f"{CHANGE} ALTER COLUMN reason TYPE varchar", "the column reason"),
        (f"{CHANGE} ALTER COLUMN reason DROP NOT NULL", "the column reason"),
        (
            f"{CHANGE} DROP CONSTRAINT risk_state_history_reason_check,"
            " ADD CONSTRAINT risk_state_history_reason_check CHECK (length(reason) < 2000)",
            "the constraint risk_state_history_reason_check",
        ),
        (
            f"{CHANGE} DROP CONSTRAINT risk_state_history_pkey,"
            " ADD CONSTRAINT risk_state_history_pkey PRIMARY KEY (trader_id, epoch, seq)",
            "the primary key",
        ),
        (f"{CHANGE} ENABLE ROW LEVEL SECURITY", "row security"),
        (f"{CHANGE} FORCE ROW LEVEL SECURITY", "row security"),
        (f"{CHANGE} SET UNLOGGED", "being unlogged"),
        (
            "CREATE VIEW pauses AS SELECT * FROM risk_state_history",
            ".* on view pauses",
        ),
        (
            "CREATE RULE quiet AS ON INSERT TO risk_state_history DO ALSO NOTHING",
            "rule quiet on table risk_state_history",
        ),
        (
            "CREATE PUBLICATION outwards FOR TABLE risk_state_history",
            ".*publication outwards",
        ),
        (
            "CREATE POLICY own ON risk_state_history USING (true)",
            "policy own on table risk_state_history",
        ),
        ("CREATE SEQUENCE s OWNED BY risk_state_history.seq", "sequence s"),
        ("CREATE TABLE child () INHERITS (risk_state_history)", "table child"),
        (
            "CREATE TABLE base (reason text); ALTER TABLE base ALTER reason SET NOT NULL;"
            " ALTER TABLE risk_state_history INHERIT base",
            "its inheritance from base",
        ),
        (
            'CREATE TABLE other (t text COLLATE "C", a timestamptz, e bigint, s bigint,'
            " FOREIGN KEY (t, a, e, s) REFERENCES risk_state_history)",
            "constraint .* on table other",
        ),
    ],
)
def test_what_it_would_lose_stops_it(
    empty_database_url: str, tmp_path: Path, statement: str, named: str
) -> None:
    migrate_up_to(empty_database_url, HYPERTABLE, tmp_path)
    with psycopg.connect(empty_database_url, autocommit=True) as db:
        db.execute(FILL)
        db.execute(statement.encode())
        before = db.execute(ROWS).fetchall()
        with pytest.raises(MigrationError, match=rf"^{FORM}.*(would lose it|would be lost): {named}"):
            migrations.up(empty_database_url)
        assert db.execute(ROWS).fetchall() == before
        assert db.execute("SELECT to_regclass('risk_state_history_before')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "SELECT add_retention_policy('risk_state_history', interval '90 days')",
            r"job \d+ \(policy_retention\)",
        ),
        ("ALTER TABLE risk_state_history SET (timescaledb.compress)", "compression"),
        (
            "CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous) AS SELECT trader_id,"
            " time_bucket('1 day', recorded_at), count(*) FROM risk_state_history GROUP BY 1, 2 WITH NO DATA",
            "continuous aggregate daily",
        ),
        ("SELECT add_dimension('risk_state_history', by_hash('trader_id', 4))", "dimension trader_id"),
        ("SELECT attach_tablespace('pg_default', 'risk_state_history')", "tablespaces {pg_default}"),
    ],
)
def test_what_timescaledb_has_of_it_stops_it(
    timescale_url: str, tmp_path: Path, statement: str, named: str
) -> None:
    migrate_up_to(timescale_url, HYPERTABLE, tmp_path)
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute(statement.encode())
    with pytest.raises(MigrationError, match=rf"would lose it: .*TimescaleDB's {named}"):
        migrations.up(timescale_url)


def test_what_was_set_of_it_is_kept(
    postgres_server: EmbeddedPostgres, databases: Databases, tmp_path: Path
) -> None:
    """Of the table, its columns, indexes, triggers and privileges; on a plain table."""
    url = databases.create()
    migrate_up_to(url, HYPERTABLE, tmp_path)
    space = f"space_{name_in(url)}"
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET allow_in_place_tablespaces = on")
        db.execute(f"CREATE TABLESPACE {space} LOCATION ''".encode())
        for role in ("r1", "r2"):
            db.execute(f"CREATE ROLE {space}_{role}".encode())
        try:
            db.execute(SETTINGS.replace("ROOM", space).encode())
            before = [db.execute(question).fetchall() for question in LOOKS]
            migrations.up(url)
            assert [db.execute(question).fetchall() for question in LOOKS] == before
        finally:
            databases.drop(url)
            with psycopg.connect(postgres_server.url, autocommit=True) as admin:
                admin.execute(f"DROP TABLESPACE {space}".encode())
                admin.execute(f"DROP ROLE {space}_r1, {space}_r2".encode())


def test_the_length_of_a_chunk_is_kept(timescale_url: str, tmp_path: Path) -> None:
    migrate_up_to(timescale_url, HYPERTABLE, tmp_path)
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute("SELECT set_chunk_time_interval('risk_state_history', interval '1 day')")
        db.execute(FILL)
        migrations.up(timescale_url)
        assert db.execute("SELECT count(*) FROM show_chunks('risk_state_history')").fetchone() == (17,)


def test_without_the_library_it_is_refused(empty_database_url: str, tmp_path: Path) -> None:
    """The connection refuses already; the migration does so too, for one who applies it by another way."""
    migrate_up_to(empty_database_url, HYPERTABLE, tmp_path)
    up = (migrations._CHECKOUT / FORM).read_text().split("-- migrate:down")[0]
    with psycopg.connect(empty_database_url) as db:
        db.execute("CREATE TEMP TABLE pg_extension AS SELECT 'timescaledb' AS extname")
        db.execute("SET LOCAL search_path = pg_temp, public, pg_catalog")
        with pytest.raises(errors.RaiseException, match="not in shared_preload_libraries"):
            db.execute(up.encode())
