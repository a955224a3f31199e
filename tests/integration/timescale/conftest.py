"""History as a hypertable, on TimescaleDB's Community edition."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from click.testing import CliRunner, Result

from risk_worker.cli import cli
from risk_worker.database import migrations

Run = Callable[..., Result]
"""Runs a command of riskstream on a database; keywords are settings."""


@pytest.fixture
def hypertable_url(timescale_url: str) -> str:
    """A migrated database whose history is a hypertable, and no more. Policies run when a test runs them."""
    migrations.up(timescale_url)
    with psycopg.connect(timescale_url, autocommit=True) as db:
        db.execute("SELECT _timescaledb_functions.stop_background_workers()")
    return timescale_url


@pytest.fixture
def run() -> Run:
    """A Run."""

    def invoke(url: str, *arguments: str, stdin: str | None = None, **settings: str) -> Result:
        runner = CliRunner(env={"POSTGRES_URL": url, **settings})
        return runner.invoke(cli, arguments, input=stdin, catch_exceptions=False)

    return invoke


@pytest.fixture
def enabled_url(hypertable_url: str, run: Run) -> str:
    """The same after `riskstream timescale enable`."""
    done = run(hypertable_url, "timescale", "enable")
    assert done.exit_code == 0, done.output
    return hypertable_url
