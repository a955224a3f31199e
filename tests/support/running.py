"""A whole system on servers of its own, with traders that never stop, to be hurt and to be looked at."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import psycopg
import redis

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey
from risk_producer import RiskProducer, RiskSnapshot
from risk_producer.contract.keys import Keys, partition_of
from risk_producer.settings import Settings
from risk_worker.database import migrations
from risk_worker.doctor.check import Finding
from risk_worker.doctor.examination import examination
from risk_worker.status.look import look
from risk_worker.status.model import Status
from risk_worker.status.problems import problems
from risk_worker.status.render import lines
from tests.support.disk import small_disk
from tests.support.process import ChildProcess
from tests.support.prometheus import Prometheus
from tests.support.servers import QUICK_POSTGRES
from tests.support.wait import wait_until

PARTITIONS = 2
MAXLEN = 20_000
"""Of all streams together."""
ROLE = "risk_worker"
EVERY_S = 0.2
Role = Literal["worker", "exporter"]


class Traders:
    """Traders that send all the time, as far as they may; what alice sends can be changed."""

    NAMES = ("alice", "bob", "carol", "dan")

    def __init__(self, url: str) -> None:
        assert {partition_of(name, PARTITIONS) for name in self.NAMES} == set(range(PARTITIONS))
        self._producer = RiskProducer(url, partitions=PARTITIONS, stream_maxlen=MAXLEN, on_full="refuse")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.names = list(self.NAMES)
        self.fields: dict[str, Any] = {}
        """Of alice's snapshots."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)
        self._producer.close(timeout=1)

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """These send nothing."""
        self.names = [name for name in self.names if name not in names]
        try:
            yield
        finally:
            self.names = list(self.NAMES)

    @contextmanager
    def sending(self, **fields: Any) -> Iterator[None]:
        """Alice's snapshots have these fields."""
        self.fields = fields
        try:
            yield
        finally:
            self.fields = {}

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
                with suppress(Exception):
                    self._producer.save(RiskSnapshot(trader_id=name, **fields))


class RunningSystem:
    """Redis, Postgres with a role that is no superuser, a worker and an exporter in processes of their own,
    traders, and a Prometheus that scrapes all of it. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._started: dict[str, list[ChildProcess]] = {"worker": [], "exporter": []}
        self.redis = EmbeddedValkey(
            folder / "redis",
            appendfsync="everysec",
            config={"maxmemory": "200mb", "maxmemory-policy": "noeviction"},
        )
        self.postgres = EmbeddedPostgres(folder / "postgres", config=QUICK_POSTGRES, database="risk")
        self.disk = folder / "disk"
        """Where the database's files are, unless without_disk says why not."""
        self.without_disk = ""
        self.environ: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        enter = self._stack.enter_context
        enter(self.redis)
        self.client: redis.Redis = enter(redis.Redis.from_url(self.redis.url))
        self.without_disk = enter(small_disk(self.disk))
        enter(self.postgres)
        self._make_database()
        self.environ = {
            "REDIS_URL": self.redis.url,
            "POSTGRES_URL": self.postgres.url.replace("postgres@", f"{ROLE}@"),
            "RISK_PARTITIONS": str(PARTITIONS),
            "RISK_STREAM_MAXLEN": str(MAXLEN),
            "RISK_METRICS_TRADERS": "risk",
            "RISK_VERIFY_EVERY": "15s",  # as long as it is given on a busy machine, too
            "RISK_LOG_FORMAT": "json",
        }
        migrations.up(self.environ["POSTGRES_URL"])
        self.start_worker()
        self.start_exporter()
        self.port = self._port()
        self.traders = enter(Traders(self.redis.url))
        self.prometheus = enter(Prometheus(self._folder / "prometheus", f"127.0.0.1:{self.port}"))
        self.until_well()

    def _make_database(self) -> None:
        """Of a role that is no superuser, on the small disk."""
        with psycopg.connect(self.postgres.url_of("postgres"), autocommit=True) as db:
            db.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
            db.execute(f"ALTER DATABASE risk OWNER TO {ROLE}".encode())
            if not self.without_disk:
                owner = (self.postgres.folder / "pgdata").stat()
                os.chown(self.disk, owner.st_uid, owner.st_gid)
                db.execute(f"CREATE TABLESPACE small LOCATION '{self.disk}'".encode())
                db.execute("ALTER DATABASE risk SET TABLESPACE small")
        with self.administrator() as db:
            db.execute(f"GRANT CREATE ON SCHEMA public TO {ROLE}".encode())

    # Processes

    @property
    def worker(self) -> ChildProcess:
        """The one that was started last."""
        return self._started["worker"][-1]

    @property
    def exporter(self) -> ChildProcess:
        """The one that was started last."""
        return self._started["exporter"][-1]

    def start_worker(self) -> None:
        self._launch("worker")

    def start_exporter(self) -> None:
        """On the same port as before."""
        self._launch("exporter", "--port", str(self._port() if self._started["exporter"] else 0))

    def _launch(self, role: Role, *words: str) -> None:
        started = self._started[role]
        log = self._folder / f"{role}-{len(started)}.log"
        command = [sys.executable, "-m", "risk_worker", role, *words]
        started.append(self._stack.enter_context(ChildProcess(log, self.environ, command)))

    def _port(self) -> int:
        pattern = r"Serving http://127\.0\.0\.1:(\d+)/metrics"
        [port] = wait_until(lambda: re.findall(pattern, self._started["exporter"][0].log), 30, "the exporter")
        return int(port)

    def freeze(self) -> None:
        self.worker.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.worker.signal(signal.SIGCONT)

    # What the instruments say

    def status(self, **more: str) -> Status:
        return look(Settings.load({**self.environ, **more}))

    def problems(self, **more: str) -> set[str]:
        """Their names."""
        return {each.name for each in problems(self.status(**more))}

    def doctor(self, **more: str) -> list[Finding]:
        return examination({**self.environ, **more})

    def logged(self, role: Role) -> list[dict[str, Any]]:
        """What all processes of a role have logged so far, from WARNING on; what is no JSON is one more."""
        found = []
        for line in (line for each in self._started[role] for line in each.log.splitlines()):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"level": "NO JSON", "message": line}
            if entry["level"] not in ("INFO", "DEBUG"):
                found.append(entry)
        return found

    def readyz(self) -> str:
        """What the exporter answers; empty: it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=20) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            return ""

    def until_well(self) -> None:
        """Until nothing is wrong, a worker has each partition, and no alert fires or is about to."""

        def is_well() -> bool:
            found = self.status()
            drained = all(each.worker is not None for each in found.partitions or ())
            stored = bool(found.totals and found.totals["stored"])
            return not problems(found) and drained and stored and self._is_quiet()

        self.until(is_well, "a system in which nothing is wrong", 60)

    def _is_quiet(self) -> bool:
        wanted = 'up == 1 and on () risk_up{server="postgres"} == 1 and on () risk_verify_success == 1'
        return not self.prometheus.alerts() and bool(self.prometheus.query(wanted))

    def until(self, predicate: Callable[[], object], what: str, timeout_s: float = 30) -> None:
        """wait_until() that shows how things are where it waits in vain."""
        try:
            wait_until(predicate, timeout_s, what)
        except AssertionError as error:
            screen = "\n".join(line.text for line in lines(self.status()))
            logs = "\n".join(each.log[-2000:] for each in (self.worker, self.exporter))
            alerts = self.prometheus.alerts()
            raise AssertionError(f"{error}\n{screen}\n{logs}\n{alerts}\n{self.readyz()}") from None

    # To cause faults

    def connect(self, **options: Any) -> redis.Redis:
        """Another client of Redis."""
        return redis.Redis.from_url(self.redis.url, **options)

    def administrator(self) -> psycopg.Connection:
        """Of the database, with autocommit."""
        return psycopg.connect(self.postgres.url, autocommit=True)

    def drained(self) -> bool:
        """Whether nothing waits in the streams."""
        return not any(self.client.xlen(Keys(partition).snapshots) for partition in range(PARTITIONS))
