"""A real Prometheus scrapes a running system; each fault makes its alert fire, and no other.

Then every query of the dashboards is run against it and against Postgres.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import psycopg
import pytest
import redis

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey
from risk_producer import RiskProducer, RiskSnapshot
from risk_producer.contract.keys import Keys
from risk_worker.database import grants
from tests.support.process import ChildProcess
from tests.support.prometheus import Prometheus
from tests.support.servers import QUICK_POSTGRES, server_folder
from tests.support.wait import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

OPS = Path(__file__).parents[2] / "ops"
MAXLEN = 2_000
PARTITIONS = 2
EVERY_S = 0.2


class Traders:
    """Two traders that send all the time, as far as they may; what they send can be changed."""

    def __init__(self, url: str) -> None:
        self._producer = RiskProducer(url, partitions=PARTITIONS, stream_maxlen=MAXLEN, on_full="refuse")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.names = ["alice", "bob"]
        self.fields: dict[str, Any] = {}
        """Of alice's snapshots."""

    def __enter__(self) -> Traders:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)
        self._producer.close(timeout=2)

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            for name in list(self.names):
                fields = {
                    "daily_pnl": -1.0,
                    "drawdown_pct": 1.0,
                    "current_equity": 100.0,
                    "peak_equity": 101.0,
                    **(self.fields if name == "alice" else {}),
                }
                self._producer.save(RiskSnapshot(trader_id=name, **fields))


class System:
    """Everything that is watched, and Prometheus."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        config = {"maxmemory": "200mb", "maxmemory-policy": "noeviction"}
        self.redis = stack.enter_context(EmbeddedValkey(folder / "redis", appendfsync="no", config=config))
        self.postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", config=QUICK_POSTGRES))
        self.environ = {
            "REDIS_URL": self.redis.url,
            "POSTGRES_URL": self.postgres.url,
            "RISK_PARTITIONS": str(PARTITIONS),
            "RISK_STREAM_MAXLEN": str(MAXLEN),
            "RISK_METRICS_TRADERS": "risk",
            "RISK_VERIFY_EVERY": "15s",  # as long as it is given on a busy machine, too
        }
        self._stack = stack
        self.worker = self.start("worker")
        self.exporter = self.start("exporter", "--port", "0")
        pattern = r"Serving http://127\.0\.0\.1:(\d+)/metrics"
        [port] = wait_until(lambda: re.findall(pattern, self.exporter.log), 30, "the exporter")
        self.port = port
        self.traders = stack.enter_context(Traders(self.redis.url))
        self.prometheus = stack.enter_context(Prometheus(folder / "prometheus", f"127.0.0.1:{port}"))
        self.client = stack.enter_context(redis.Redis.from_url(self.redis.url))

    def start(self, *command: str) -> ChildProcess:
        log = self._folder / f"{command[0]}.log"
        words = [sys.executable, "-m", "risk_worker", *command]
        return self._stack.enter_context(ChildProcess(log, self.environ, words))

    def is_well(self) -> bool:
        """Nothing fires or is about to, and the newest scrape has everything."""
        wanted = 'up == 1 and on () risk_up{server="postgres"} == 1 and on () risk_verify_success == 1'
        return not self.prometheus.alerts() and bool(self.prometheus.query(wanted))


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with server_folder() as folder, ExitStack() as stack:
        made = System(folder, stack)
        wait_until(made.is_well, 60, "a system in which no alert fires")
        yield made


@contextmanager
def killed_worker(system: System) -> Iterator[None]:
    system.worker.kill()
    yield
    system.worker = system.start("worker")


@contextmanager
def frozen_worker(system: System) -> Iterator[None]:
    system.worker.signal(SIGSTOP)
    yield
    system.worker.signal(SIGCONT)


@contextmanager
def no_worker_and_many_snapshots(system: System) -> Iterator[None]:
    with killed_worker(system):
        pipeline = system.client.pipeline()
        for _ in range(MAXLEN):
            pipeline.xadd(Keys(0).snapshots, {"s": "{}"})
        added: list[bytes] = pipeline.execute()
        yield
        system.client.xdel(Keys(0).snapshots, *added)


@contextmanager
def frozen_redis(system: System) -> Iterator[None]:
    system.redis.pause()
    yield
    system.redis.resume()


@contextmanager
def killed_redis(system: System) -> Iterator[None]:
    system.redis.kill()
    yield
    system.redis.start()


def configured(name: str, value: Callable[[System], Any]) -> Callable[[System], Any]:
    """Redis with another setting for a while."""

    @contextmanager
    def fault(system: System) -> Iterator[None]:
        before = system.client.config_get(name)[name]
        system.client.config_set(name, value(system))
        yield
        system.client.config_set(name, before)

    return fault


@contextmanager
def stopped_postgres(system: System) -> Iterator[None]:
    system.postgres.stop()
    yield
    system.postgres.start()


@contextmanager
def frozen_postgres(system: System) -> Iterator[None]:
    system.postgres.pause()
    yield
    system.postgres.resume()


@contextmanager
def a_lock(system: System) -> Iterator[None]:
    with psycopg.connect(system.postgres.url) as holder:
        holder.execute("LOCK TABLE risk_state IN SHARE MODE")
        yield


@contextmanager
def poison(system: System) -> Iterator[None]:
    system.client.xadd(Keys(1).snapshots, {"s": "nonsense"})
    yield


@contextmanager
def a_missing_row(system: System) -> Iterator[None]:
    with psycopg.connect(system.postgres.url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")  # history is append-only otherwise
        db.execute(
            "CREATE TEMP TABLE kept AS SELECT * FROM risk_state_history WHERE trader_id = 'bob' "
            "ORDER BY epoch, seq LIMIT 1"
        )
        db.execute(
            "DELETE FROM risk_state_history AS history USING kept "
            "WHERE history.trader_id = kept.trader_id AND history.recorded_at = kept.recorded_at "
            "AND history.epoch = kept.epoch AND history.seq = kept.seq"
        )
        yield
        db.execute("INSERT INTO risk_state_history SELECT * FROM kept")


@contextmanager
def silent_bob(system: System) -> Iterator[None]:
    system.traders.names.remove("bob")
    yield
    system.traders.names.append("bob")


def sending(**fields: Any) -> Callable[[System], Any]:
    @contextmanager
    def fault(system: System) -> Iterator[None]:
        system.traders.fields = fields
        yield
        system.traders.fields = {}

    return fault


@contextmanager
def killed_exporter(system: System) -> Iterator[None]:
    system.exporter.kill()
    yield
    system.exporter = system.start("exporter", "--port", system.port)


FAULTS: dict[str, tuple[Callable[[System], Any], set[str]]] = {
    "worker killed": (killed_worker, {"RiskNoWorker"}),
    "worker frozen": (frozen_worker, {"RiskNoWorker"}),
    "no worker, and the stream fills": (
        no_worker_and_many_snapshots,
        {"RiskNoWorker", "RiskStreamNearlyFull"},
    ),
    "redis frozen": (frozen_redis, {"RiskRedisDown"}),
    "redis killed": (killed_redis, {"RiskRedisDown"}),
    "redis full": (configured("maxmemory", lambda _: 1), {"RiskRedisRefusesWrites"}),
    "too few replicas": (configured("min-replicas-to-write", lambda _: 1), {"RiskRedisRefusesWrites"}),
    "redis nearly full": (
        configured("maxmemory", lambda system: int(1.1 * system.client.info("memory")["used_memory"])),
        {"RiskRedisNearlyFull"},
    ),
    "redis may evict": (configured("maxmemory-policy", lambda _: "allkeys-lru"), {"RiskRedisMayEvict"}),
    "postgres stopped": (stopped_postgres, {"RiskPostgresDown"}),
    "postgres frozen": (frozen_postgres, {"RiskPostgresDown"}),
    "a lock": (a_lock, {"RiskNothingStored"}),
    "poison": (poison, {"RiskDeadLetters"}),
    "a row is missing": (a_missing_row, {"RiskSnapshotsLost"}),
    "a trader is silent": (silent_bob, {"RiskTraderSilent"}),
    "a trader has paused": (sending(trading_paused=True, reason="limit"), {"RiskTraderPaused"}),
    "a drawdown": (sending(drawdown_pct=7.5), {"RiskTraderDrawdown"}),
    "exporter killed": (killed_exporter, {"RiskExporterDown"}),
}


# Soon after Postgres was stopped the system is not always well again in time; the reason is not found yet.
UNSTABLE = {"postgres frozen": pytest.mark.xfail(strict=False, reason="not always well again in time")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=UNSTABLE.get(name, ())) for name in FAULTS])
def test_a_fault_has_its_alert_and_no_other(system: System, name: str) -> None:
    cause, expected = FAULTS[name]
    prometheus = system.prometheus
    wait_until(system.is_well, 60, f"no alert before: {prometheus.alerts()}")
    seen: set[str] = set()

    def fire() -> bool:
        firing = prometheus.firing()
        seen.update(firing)
        assert firing <= expected, prometheus.alerts()
        return firing >= expected

    fault = cause(system)
    fault.__enter__()
    try:
        wait_until(fire, 60, f"{expected}")
        began = prometheus.number("vector(time())")
        wait_until(
            lambda: fire() and prometheus.number("vector(time())") > began + 5, 30, "five evaluations more"
        )
    finally:  # not with the error, which would leave the fault as it is
        fault.__exit__(None, None, None)
    assert seen == expected


# Dashboards

BOARDS = {path.stem: json.loads(path.read_text()) for path in (OPS / "grafana/dashboards").glob("*.json")}
QUERIES = [
    (name, panel["title"], target)
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", ())
]
MACROS = {
    r"\$__rate_interval": "30s",
    r"\$__interval": "10s",
    r"\$\{trader:sqlstring\}": "'alice'",
    r"\$__timeFilter\((\w+)\)": r"\1 BETWEEN now() - interval '1 hour' AND now() + interval '1 hour'",
    r"\$__timeGroup\((\w+), (\d+)s\)": r"floor(extract(epoch from \1) / \2) * \2",
}
"""As Grafana expands them."""


def expanded(text: str) -> str:
    for pattern, value in MACROS.items():
        text = re.sub(pattern, value, text)
    assert "$" not in text, f"no macro that is known here: {text}"
    return text


@pytest.mark.parametrize(
    ("board", "title", "target"),
    [each for each in QUERIES if "expr" in each[2]],
    ids=lambda each: each if isinstance(each, str) else each["refId"],
)
def test_a_query_of_a_dashboard_has_an_answer(
    system: System, board: str, title: str, target: dict[str, Any]
) -> None:
    found = wait_until(lambda: system.prometheus.query(expanded(target["expr"])), 40, target["expr"])
    for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(name in each["metric"] for each in found), name


@pytest.fixture(scope="module")
def reader(system: System) -> Iterator[psycopg.Connection]:
    """As Grafana connects, by the roles of docker-compose.yml; alice has paused a while ago."""
    with sending(trading_paused=True, reason="limit")(system):
        paused = "SELECT count(*) FROM risk_state_history WHERE trading_paused"
        with psycopg.connect(system.postgres.url, autocommit=True) as db:
            wait_until(lambda: db.execute(paused).fetchone() != (0,), 20, "a pause")
    grants.apply(system.postgres.url)
    with psycopg.connect(system.postgres.url, autocommit=True) as db:
        db.execute("CREATE ROLE risk_monitor LOGIN PASSWORD 'geheim' IN ROLE risk_reader")
        db.execute("ALTER ROLE risk_monitor SET default_transaction_read_only = on")
    with psycopg.connect(
        system.postgres.url, user="risk_monitor", password="geheim", autocommit=True
    ) as made:
        yield made


@pytest.mark.parametrize(
    ("board", "title", "target"),
    [each for each in QUERIES if "rawSql" in each[2]],
    ids=lambda each: each if isinstance(each, str) else each["refId"],
)
def test_a_question_of_a_dashboard_has_an_answer(
    reader: psycopg.Connection, board: str, title: str, target: dict[str, Any]
) -> None:
    cursor = reader.execute(expanded(target["rawSql"]).encode())
    assert cursor.fetchall() != []
    names = [column.name for column in cursor.description or ()]
    if target["format"] == "time_series":
        assert names[0] == "time"


def test_the_variable_of_a_dashboard_lists_the_traders(reader: psycopg.Connection) -> None:
    [variable] = BOARDS["trader"]["templating"]["list"]
    found = reader.execute(variable["query"].encode()).fetchall()
    assert {("alice",), ("bob",)} <= set(found)


def test_the_reader_changes_nothing(reader: psycopg.Connection) -> None:
    for statement in (
        "DELETE FROM risk_state",
        "CREATE TABLE x ()",
        "SET default_transaction_read_only = off; UPDATE risk_state SET epoch = 1",
    ):
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
            reader.execute(statement.encode())
