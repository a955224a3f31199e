"""`riskstream timescale enable`, `policies` and `status`, with each kind of server and owner."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import Result

from risk_devkit.embedded import EmbeddedPostgres
from risk_worker.database import migrations
from risk_worker.timescale.policies import jobs
from tests.integration.timescale.conftest import Run
from tests.support.database import take_back
from tests.support.history import DAY, TODAY, fill
from tests.support.servers import Databases


def jobs_of(url: str) -> dict[str, timedelta | None]:
    with psycopg.connect(url) as db:
        return {job.of: job.offset for job in jobs(db)}


def findings(done: Result) -> list[str]:
    found: list[str] = json.loads(done.stdout)["findings"]
    assert done.exit_code == bool(found)
    return found


class TestWithoutTimescale:
    def test_status_says_what_history_is(self, database_url: str, run: Run) -> None:
        done = run(database_url, "timescale", "status")
        assert done.exit_code == 0
        assert "history       a plain table" in done.stdout
        assert "history is kept for ever; nothing was removed" in done.stdout
        assert findings(run(database_url, "timescale", "status", "--json")) == []

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("enable", "stays a plain table: this server does not have TimescaleDB"),
            ("policies", "is a plain table; riskstream timescale enable makes it a hypertable"),
        ],
    )
    def test_what_it_cannot_have_is_an_error(
        self, postgres_server: EmbeddedPostgres, run: Run, command: str, reason: str
    ) -> None:
        databases = Databases(postgres_server.url)
        url = databases.create()
        migrations.up(url)
        done = run(url, "timescale", command)
        assert (done.exit_code, done.stdout) == (2, "")
        assert reason in done.stderr
        databases.drop(url)

    @pytest.mark.parametrize("command", ["status", "enable", "policies"])
    def test_what_cannot_be_asked(self, empty_database_url: str, run: Run, command: str) -> None:
        for url, reason in (
            (empty_database_url, "run riskstream migrate up"),
            ("postgresql://u:secret@127.0.0.1:1/x", "the database"),
        ):
            done = run(url, "timescale", command)
            assert (done.exit_code, done.stdout) == (2, "")
            assert reason in done.stderr
            assert "secret" not in done.stderr

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            *(("RISK_COMPRESS_AFTER", value) for value in ("7", "0d", "1h", "-1d", "7 d", "never", "7d\n8d")),
            *(("RISK_RETAIN_FOR", value) for value in ("6d", "0d", "90", "off", "1y", "100000d", "９d")),
        ],
    )
    def test_settings_that_are_none(self, run: Run, setting: str, value: str) -> None:
        done = run("postgresql://u@127.0.0.1:1/x", "timescale", "status", **{setting: value})
        assert done.exit_code == 2
        assert f"{setting} expects a number of days" in done.stderr


def test_enable_does_all_and_may_be_repeated(hypertable_url: str, run: Run) -> None:
    before = run(hypertable_url, "timescale", "status")
    assert before.exit_code == 1
    assert "✗ The columnstore of history is off: riskstream timescale enable" in before.stdout
    first = run(hypertable_url, "timescale", "enable")
    assert (first.exit_code, first.stdout.splitlines()) == (
        0,
        [
            "risk_state_history is a hypertable",
            "The columnstore is on",
            "Chunks are compressed once all of their rows are older than 7 days",
            "risk_hourly is a continuous aggregate, refreshed every 30 minutes for all of history",
            "risk_daily is a continuous aggregate, refreshed every 6 hours for all of history",
        ],
    )
    made = jobs_of(hypertable_url)
    assert made == {"risk_state_history": 7 * DAY, "risk_hourly": None, "risk_daily": None}
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        db.execute(
            "SELECT alter_job(job_id, schedule_interval => '3 h') FROM timescaledb_information.jobs"
            " WHERE proc_name = 'policy_compression'"
        )
        assert run(hypertable_url, "timescale", "enable").stdout == first.stdout
        assert jobs_of(hypertable_url) == made
        assert db.execute(
            "SELECT schedule_interval FROM timescaledb_information.jobs"
            " WHERE proc_name = 'policy_compression'"
        ).fetchall() == [(timedelta(hours=3),)], "what an operator changed stays"
        assert db.execute(
            "SELECT count(*) FROM timescaledb_information.continuous_aggregates"
        ).fetchall() == [(2,)]
    assert findings(run(hypertable_url, "timescale", "status", "--json")) == []


def test_policies_follow_the_settings(enabled_url: str, run: Run) -> None:
    changed = {"RISK_COMPRESS_AFTER": "30d"}
    said = findings(run(enabled_url, "timescale", "status", "--json", **changed))
    assert said == [
        "RISK_COMPRESS_AFTER is 30d, and TimescaleDB compresses after 7 days, 0:00:00:"
        " riskstream timescale policies"
    ]
    assert run(enabled_url, "timescale", "policies", **changed).exit_code == 0
    assert jobs_of(enabled_url) == {"risk_state_history": 30 * DAY, "risk_hourly": None, "risk_daily": None}
    assert findings(run(enabled_url, "timescale", "status", "--json", **changed)) == []

    changed = {"RISK_COMPRESS_AFTER": "off"}
    assert run(enabled_url, "timescale", "policies", **changed).exit_code == 0
    assert jobs_of(enabled_url) == {"risk_hourly": None, "risk_daily": None}
    assert findings(run(enabled_url, "timescale", "status", "--json", **changed)) == []
    [finding] = findings(run(enabled_url, "timescale", "status", "--json"))
    assert finding == (
        "RISK_COMPRESS_AFTER is 7d, and TimescaleDB has no policy: riskstream timescale policies"
    )


def test_compressed_chunks_know_when_their_rows_were_stored(enabled_url: str, run: Run) -> None:
    fill(enabled_url, ["a", "b"], TODAY - 40 * DAY, 40)
    with psycopg.connect(enabled_url, autocommit=True) as db:
        [policy] = [job for job in jobs(db) if job.of == "risk_state_history"]
        db.execute("CALL run_job(%s)", (policy.number,))
        settings = db.execute(
            "SELECT DISTINCT segmentby, orderby FROM timescaledb_information.chunk_columnstore_settings"
        ).fetchall()
        assert settings == [("trader_id", "recorded_at DESC,epoch DESC,seq DESC")]
        plan = "\n".join(
            line
            for (line,) in db.execute(
                "EXPLAIN SELECT count(*) FROM risk_state_history WHERE stored_at >= %s AND stored_at < %s",
                (TODAY - 30 * DAY, TODAY - 29 * DAY),
            )
        )
    assert "max_stored_at" in plan or "_max_" in plan, plan
    shown = run(enabled_url, "timescale", "status")
    assert shown.exit_code == 0
    assert "times)" in shown.stdout
    found = json.loads(run(enabled_url, "timescale", "status", "--json").stdout)
    assert found["compressed"] >= 4
    assert found["bytes_after"] > 0


def test_chunks_without_it_are_named(hypertable_url: str, run: Run) -> None:
    fill(hypertable_url, ["a"], TODAY - 40 * DAY, 20)
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        db.execute(
            "ALTER TABLE risk_state_history SET (timescaledb.compress, timescaledb.orderby = 'recorded_at',"
            " timescaledb.sparse_index = '')"
        )
        db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
    assert run(hypertable_url, "timescale", "enable").exit_code == 0
    [finding] = findings(run(hypertable_url, "timescale", "status", "--json"))
    assert "compressed chunks have no minimum and maximum of stored_at" in finding
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        db.execute(
            "SELECT compress_chunk(chunk, recompress => true)"
            " FROM timescaledb_information.chunk_columnstore_settings"
        )
    assert findings(run(hypertable_url, "timescale", "status", "--json")) == []


def test_what_is_not_sound_is_named(enabled_url: str, run: Run) -> None:
    with psycopg.connect(enabled_url, autocommit=True) as db:
        db.execute("SELECT add_retention_policy('risk_state_history', interval '90 days')")
        db.execute("SELECT set_chunk_time_interval('risk_state_history', interval '36 hours')")
        db.execute(
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs"
            " WHERE hypertable_name = 'risk_daily'"
        )
        db.execute("SELECT remove_continuous_aggregate_policy('risk_hourly')")
    said = "\n".join(findings(run(enabled_url, "timescale", "status", "--json")))
    assert "TimescaleDB's retention policy (job " in said
    assert "TimescaleDB's retention policy (job " in run(enabled_url, "seal", "verify").stdout
    assert "removes rows of history older than 90 days" in said
    assert "A chunk has 1 day, 12:00:00" in said
    assert "The policy of risk_daily" in said
    assert "Nothing refreshes risk_hourly" in said


def test_a_view_keeps_its_comment_and_its_grants(hypertable_url: str, run: Run) -> None:
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        role = f"reader_{db.info.dbname}"
        db.execute(
            f"CREATE ROLE {role}; GRANT SELECT ON risk_daily TO {role}; GRANT SELECT ON risk_hourly TO PUBLIC"
        )
        try:
            assert run(hypertable_url, "timescale", "enable").exit_code == 0
            assert db.execute(
                "SELECT has_table_privilege(%s, 'risk_daily', 'SELECT'),"
                " has_table_privilege(%s, 'risk_hourly', 'SELECT'),"
                " obj_description('risk_daily'::regclass, 'pg_class') LIKE 'Days (UTC)%%'",
                (role, role),
            ).fetchall() == [(True, True, True)]
        finally:
            db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_view_on_a_view_stops_it_and_is_named(hypertable_url: str, run: Run) -> None:
    with psycopg.connect(hypertable_url, autocommit=True) as db:
        db.execute("CREATE VIEW losses AS SELECT * FROM risk_daily WHERE daily_pnl < 0")
        done = run(hypertable_url, "timescale", "enable")
        assert done.exit_code == 2
        assert (
            "risk_daily cannot become a continuous aggregate while something depends on it: view losses"
            in done.stderr
        )
        assert db.execute("SELECT count(*) FROM losses").fetchall() == [(0,)]


class TestOwners:
    @pytest.fixture
    def owner(self, timescale_url: str) -> Iterator[str]:
        """A role that owns the database, and no more."""
        with psycopg.connect(timescale_url, autocommit=True) as admin:
            name = f"owner_{admin.info.dbname}"
            admin.execute(
                f"CREATE ROLE {name} LOGIN PASSWORD 'x'; ALTER DATABASE {admin.info.dbname} OWNER TO {name}"
            )
            yield name
            admin.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}")

    def as_role(self, url: str, role: str) -> str:
        with psycopg.connect(url) as db:
            return f"postgresql://{role}:x@{db.info.host}:{db.info.port}/{db.info.dbname}"

    def test_an_ordinary_owner(self, timescale_url: str, owner: str, run: Run) -> None:
        url = self.as_role(timescale_url, owner)
        migrations.up(url)
        with psycopg.connect(timescale_url, autocommit=True) as admin:  # policies run when a test runs them
            admin.execute("SELECT _timescaledb_functions.stop_background_workers()")
        fill(url, ["a"], TODAY - 120 * DAY, 120)
        assert run(url, "timescale", "enable").exit_code == 0
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("SELECT compress_chunk(chunk) FROM show_chunks('risk_state_history') AS chunk")
        assert run(url, "seal", "run", "--every", "1d").exit_code == 0
        removed = run(url, "retain", RISK_RETAIN_FOR="90d")
        assert (removed.exit_code, "Removed " in removed.stdout) == (0, True), removed.output
        deep = run(url, "seal", "verify", "--deep")
        assert (deep.exit_code, "have expired" in deep.stdout) == (0, True), deep.output
        assert findings(run(url, "timescale", "status", "--json")) == []
        assert run(url, "timescale", "policies", RISK_RETAIN_FOR="90d").exit_code == 0

    def test_a_plain_table_becomes_one_with_its_rows_and_seals(self, timescale_url: str, run: Run) -> None:
        """Where a role migrated that may not create the extension, and somebody did so later."""
        with psycopg.connect(timescale_url, autocommit=True) as admin:
            role = f"plain_{admin.info.dbname}"
            admin.execute(
                f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE, CREATE ON SCHEMA public TO {role}"
            )
            try:
                url = self.as_role(timescale_url, role)
                migrations.up(url)
                assert "a plain table" in run(url, "timescale", "status").stdout
                fill(url, ["a"], TODAY - 40 * DAY, 39)
                heads = run(url, "seal", "run", "--every", "1d").stdout
                assert run(url, "retain", RISK_RETAIN_FOR="30d").exit_code == 0
                head = run(url, "seal", "head").stdout
                admin.execute("CREATE EXTENSION timescaledb")
                assert run(timescale_url, "timescale", "enable").exit_code == 0
                assert run(url, "seal", "head").stdout == head
                for more in ("--deep", "--heads"):
                    done = run(
                        url, "seal", "verify", more, *(["-"] if more == "--heads" else []), stdin=heads
                    )
                    assert done.exit_code == 0, done.output
                assert run(url, "retain", RISK_RETAIN_FOR="14d").exit_code == 0
                fill(url, ["late"], TODAY - 39 * DAY, 2, stored_at=datetime.now(UTC) - 2 * DAY)
                assert "rows were added" in run(url, "seal", "verify", "--deep").stdout
            finally:
                admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
                admin.execute(f"DROP ROLE {role}".encode())

    def test_a_superuser_makes_it_the_owners(self, timescale_url: str, owner: str, run: Run) -> None:
        migrations.up(self.as_role(timescale_url, owner))
        assert run(timescale_url, "timescale", "enable").exit_code == 0
        with psycopg.connect(timescale_url) as db:
            assert db.execute(
                "SELECT DISTINCT owner::text FROM timescaledb_information.jobs WHERE job_id >= 1000 UNION"
                " SELECT view_owner::text FROM timescaledb_information.continuous_aggregates"
            ).fetchall() == [(owner,)]

    def test_an_owner_without_login_is_named_with_what_to_do(
        self, timescale_url: str, owner: str, run: Run
    ) -> None:
        migrations.up(self.as_role(timescale_url, owner))
        with psycopg.connect(timescale_url, autocommit=True) as admin:
            admin.execute(f"ALTER ROLE {owner} NOLOGIN")
            done = run(timescale_url, "timescale", "enable")
            assert done.exit_code == 2
            assert "The columnstore is on" in done.stdout
            assert f"ALTER ROLE {owner} LOGIN (it needs no password)" in done.stderr
            said = findings(run(timescale_url, "timescale", "status", "--json"))
            assert any(f"ALTER ROLE {owner} LOGIN" in line for line in said)
            admin.execute(f"ALTER ROLE {owner} LOGIN")
            assert run(timescale_url, "timescale", "policies").exit_code == 0
        assert findings(run(timescale_url, "timescale", "status", "--json")) == []

    def test_one_who_owns_nothing_is_refused(self, enabled_url: str, run: Run) -> None:
        with psycopg.connect(enabled_url, autocommit=True) as admin:
            role = f"other_{admin.info.dbname}"
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
            try:
                for command in ("enable", "policies"):
                    done = run(
                        self.as_role(enabled_url, role), "timescale", command, RISK_COMPRESS_AFTER="9d"
                    )
                    assert done.exit_code == 2, done.output
                    assert "permission" in done.stderr or "privilege" in done.stderr
            finally:
                admin.execute(f"DROP ROLE {role}")


class TestApacheEdition:
    """A licence is a matter of the server's configuration file."""

    @pytest.fixture
    def apache_url(self) -> Iterator[str]:
        server_url = os.environ.get("TEST_TIMESCALE_APACHE_URL")
        if server_url is None:
            pytest.skip("TEST_TIMESCALE_APACHE_URL is not set: a server with timescaledb.license = apache")
        databases = Databases(server_url)
        yield databases.create()
        databases.drop_all()

    def test_a_hypertable_with_ordinary_views(self, apache_url: str, run: Run) -> None:
        migrations.up(apache_url)
        fill(apache_url, ["a"], TODAY - 10 * DAY, 10)
        for command in ("enable", "policies"):
            done = run(apache_url, "timescale", command, RISK_RETAIN_FOR="90d")
            assert done.exit_code == 0
            assert (
                "nothing of it is compressed, and risk_hourly and risk_daily are ordinary views"
                in done.stdout
            )
        shown = run(apache_url, "timescale", "status")
        assert shown.exit_code == 0
        assert "Apache edition" in shown.stdout
        with psycopg.connect(apache_url) as db:
            assert db.execute("SELECT sum(snapshots) FROM risk_daily").fetchall() == [(40,)]
        for _ in range(2):
            while "_expiry" not in take_back(apache_url):
                pass
            migrations.up(apache_url)
        with psycopg.connect(apache_url) as db:
            assert db.execute("SELECT count(*) FROM risk_state_history").fetchall() == [(40,)]

    def test_retention(self, apache_url: str, run: Run) -> None:
        migrations.up(apache_url)
        fill(apache_url, ["a"], TODAY - 40 * DAY, 40)
        assert run(apache_url, "seal", "run", "--every", "1d").exit_code == 0
        fill(apache_url, ["late"], TODAY - 40 * DAY, 1, stored_at=datetime.now(UTC))
        done = run(apache_url, "retain", RISK_RETAIN_FOR="14d")
        assert (done.exit_code, "Removed " in done.stdout) == (0, True), done.output
        assert run(apache_url, "seal", "verify", "--deep").exit_code == 0
        with psycopg.connect(apache_url) as db:
            assert db.execute(
                "SELECT count(*) FROM risk_state_history WHERE trader_id = 'late'"
            ).fetchall() == [(4,)]
