"""A pair of Postgres servers named by one URL: the primary dies, the standby is promoted."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from risk_devkit.embedded import EmbeddedPostgres
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.database import connection as database
from risk_worker.database import migrations
from tests.integration.faults.test_replication import NAME, standby_of
from tests.support.bounds import Bound
from tests.support.process import ChildProcess
from tests.support.producers import Threaded
from tests.support.servers import QUICK_POSTGRES, server_folder
from tests.support.steady import Steady
from tests.support.wait import wait_until


def forms(first: int, second: int) -> dict[str, dict[str, str]]:
    """The same two servers, in each form of a list."""
    return {
        "hosts with ports": {
            "POSTGRES_URL": f"postgresql://postgres@127.0.0.1:{first},127.0.0.1:{second}/postgres"
        },
        "options": {
            "POSTGRES_URL": (
                f"postgresql:///postgres?user=postgres&host=127.0.0.1,127.0.0.1&port={first},{second}"
            )
        },
        "DB_HOST and DB_PORT": {"DB_HOST": "127.0.0.1,127.0.0.1", "DB_PORT": f"{first},{second}"},
    }


def count(url: str) -> int:
    with psycopg.connect(url, connect_timeout=5) as db:
        row = db.execute("SELECT count(*) FROM risk_state_history").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.system
@pytest.mark.timeout(240)
def test_a_worker_goes_over_to_the_promoted_standby(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], bound: Bound
) -> None:
    with server_folder() as folder, EmbeddedPostgres(folder, config=QUICK_POSTGRES) as primary:
        migrations.up(primary.url)
        with standby_of(primary) as standby:
            with psycopg.connect(primary.url, autocommit=True) as admin:
                admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'".encode())
                admin.execute("SELECT pg_reload_conf()")
            for name, environ in forms(standby.port, primary.port).items():  # the standby is the first one
                url = Settings.load(environ).require_database_url()
                with database.connect(url, database.STORE) as found:
                    assert found.info.port == primary.port, name
                assert migrations.up(url) == "Nothing to apply"  # dbmate takes one host
                shown = CliRunner().invoke(cli, ["config"], env={**environ, "REDIS_URL": redis_url}).output
                assert all(f"{part}" in shown for part in environ.values()), shown
            environ = {"REDIS_URL": redis_url, **forms(primary.port, standby.port)["hosts with ports"]}
            producer = Threaded(redis_url=redis_url, buffer_size=20_000)
            with ChildProcess(tmp_path / "worker.log", environ) as worker:
                with Steady(producer, partitions=1, rate=200) as load:
                    wait_until(lambda: count(primary.url) >= 200, 60, "the worker to store")
                    primary.kill()
                    with psycopg.connect(standby.url, autocommit=True) as admin:
                        admin.execute("SELECT pg_promote()")
                    promoted, before = time.monotonic(), count(standby.url)
                    wait_until(lambda: count(standby.url) > before, 60, "the worker to store again")
                    took_s = time.monotonic() - promoted
                assert producer.flush(30)
                wait_until(lambda: count(standby.url) == load.total, 60, f"all {load.total}")
                assert worker.running
            producer.close()
            verified = CliRunner().invoke(cli, ["verify"], env=environ)
            assert verified.exit_code == 0, verified.output
    with capsys.disabled():
        print(
            f"\n{load.total} accepted and stored; the worker stored again {took_s:.2f} s after the promotion"
        )
    bound("the primary of two Postgres servers is gone, and the other one is promoted", took_s)
