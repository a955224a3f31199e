"""Fixtures: real servers. Started by the tests themselves, once a session, unless TEST_REDIS_URL or
TEST_DB_URL point at others. None skips because a server is missing; only TimescaleDB has to be given."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
import redis

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey, Value
from risk_worker.database import migrations
from risk_worker.database.store import PostgresStore
from risk_worker.stream import source
from tests.support import bounds
from tests.support.producers import Bench
from tests.support.servers import QUICK_POSTGRES, Databases, server_folder

# What is compiled is kept, whatever the environment says: hundreds of processes that tests start import the
# same modules, and pytest rewrites those of the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell without job control starts what it runs in the background with SIGINT ignored. The commands that
# tests start would inherit that, and none of them could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave the collected tests out of each look for garbage, which takes a tenth of a second with them."""
    gc.collect()
    gc.freeze()


class MakeValkey(Protocol):
    """Starts a Valkey of the test's own; keywords are settings, with _ for -."""

    def __call__(self, **config: Value) -> EmbeddedValkey: ...


class MakePostgres(Protocol):
    """Starts a Postgres of the test's own; keywords are settings."""

    def __call__(self, **config: Value) -> EmbeddedPostgres: ...


@pytest.fixture
def bound(request: pytest.FixtureRequest) -> Iterator[bounds.Bound]:
    """Holds how long something took against the promise in docs/reliability.md."""
    made = bounds.Bound(request.node)
    yield made
    made.check()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for `bound` is chosen by -m bounds."""
    for item in items:
        if "bound" in getattr(item, "fixturenames", ()):
            item.add_marker("bounds")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With RISK_TEST_BOUNDS the page gets what the tests have seen."""
    seen: dict[str, list[float]] = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        for name, value in getattr(report, "user_properties", ()) if _is_call(report) else ():
            if name == bounds.PROPERTY:
                seen.setdefault(value[0], []).append(value[1])
    if bounds.STRICT and seen:
        page = bounds.PAGE.read_text()
        terminalreporter.section("bounds")
        for when, most_s in bounds.promises(page).items():
            found = ", ".join(f"{each:.2f} s" for each in seen.get(when, ())) or "not measured"
            terminalreporter.write_line(f"{when}: {most_s:g} s promised; {found}")
        bounds.PAGE.write_text(bounds.written(page, seen))


def _is_call(report: object) -> bool:
    return getattr(report, "when", None) == "call"


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A worker inside the test leaves RQ's signal handlers behind: a SIGTERM would not end pytest."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Where the session's servers keep their data."""
    with server_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def redis_server(servers_folder: Path) -> Iterator[EmbeddedValkey]:
    """The session's Valkey. For tests that only need a URL, redis_url is better: it is flushed."""
    with EmbeddedValkey(servers_folder / "valkey", appendfsync="no") as server:
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty Redis database."""
    url = os.environ.get("TEST_REDIS_URL")
    if url is None:
        server: EmbeddedValkey = request.getfixturevalue("redis_server")
        url = server.url
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of redis_url; replies are bytes."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """A client of redis_url as the worker makes it, for what reads the stream; replies are bytes."""
    with source.connect(redis_url) as connected:
        yield connected


@pytest.fixture(params=["threaded", "asyncio"])
def flavour(request: pytest.FixtureRequest) -> str:
    """Which of the two producers: what asks for it is tested with both."""
    return str(request.param)


@pytest.fixture
def bench(flavour: str, redis_url: str) -> Iterator[Bench]:
    """Producers of both kinds on redis_url; on a fake in tests/unit."""
    with Bench(flavour, redis_url) as made:
        yield made


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The session's Postgres. For tests that only need a URL, database_url is better."""
    with EmbeddedPostgres(servers_folder / "postgres", config=QUICK_POSTGRES) as server:
        yield server


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Makes databases on the session's Postgres."""
    url = os.environ.get("TEST_DB_URL")
    if url is None:
        server: EmbeddedPostgres = request.getfixturevalue("postgres_server")
        url = server.url
    with Databases(url) as made:
        yield made


@pytest.fixture(scope="session")
def migrated_template(databases: Databases) -> str:
    """A database migrated once, to copy from. It accepts no connections."""
    url = databases.create()
    migrations.up(url)
    databases.seal(url)
    return url


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A fresh database without any table."""
    url = databases.create()
    yield url
    databases.drop(url)


@pytest.fixture
def database_url(databases: Databases, migrated_template: str) -> Iterator[str]:
    """A database of the test's own with the project's tables, as new."""
    url = databases.take(migrated_template)
    yield url
    databases.give_back(url)


@pytest.fixture
def db(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection to database_url, with autocommit."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def store(database_url: str) -> Iterator[PostgresStore]:
    """The store on database_url, open."""
    with PostgresStore(database_url) as opened:
        yield opened


@pytest.fixture
def environ(redis_url: str, database_url: str) -> dict[str, str]:
    """What a worker's environment has to name: redis_url and database_url."""
    return {"REDIS_URL": redis_url, "RQ_REDIS_URL": redis_url, "POSTGRES_URL": database_url}


@pytest.fixture
def timescale_url() -> Iterator[str]:
    """A fresh database without any table on the TimescaleDB server of TEST_TIMESCALE_URL."""
    server_url = os.environ.get("TEST_TIMESCALE_URL")
    if server_url is None:
        pytest.skip("TEST_TIMESCALE_URL is not set: no package brings TimescaleDB along")
    databases = Databases(server_url)
    yield databases.create()
    databases.drop_all()


@pytest.fixture
def make_valkey() -> Iterator[MakeValkey]:
    """Makes and starts Valkeys of the test's own, to kill, freeze and misconfigure."""
    with ExitStack() as stack:

        def make(**config: Value) -> EmbeddedValkey:
            folder = stack.enter_context(server_folder())
            settings = {name.replace("_", "-"): value for name, value in config.items()}
            return stack.enter_context(EmbeddedValkey(folder, config={"appendfsync": "always", **settings}))

        yield make


@pytest.fixture
def make_postgres() -> Iterator[MakePostgres]:
    """Makes and starts Postgres servers of the test's own, to kill, freeze and misconfigure."""
    with ExitStack() as stack:

        def make(**config: Value) -> EmbeddedPostgres:
            folder = stack.enter_context(server_folder())
            return stack.enter_context(EmbeddedPostgres(folder, config={**QUICK_POSTGRES, **config}))

        yield make
