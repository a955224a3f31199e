"""A whole system on servers of its own, with a trader that never stops, to be hurt and to be looked at."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import redis

from risk_devkit.embedded import EmbeddedPostgres, EmbeddedValkey
from risk_producer import RiskProducer
from risk_producer.settings import Settings
from risk_worker.database import migrations
from risk_worker.doctor.check import Finding
from risk_worker.doctor.examination import examination
from risk_worker.status.look import look
from risk_worker.status.model import Status
from risk_worker.status.problems import problems
from risk_worker.status.render import lines
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.servers import QUICK_POSTGRES
from tests.support.wait import wait_until

PARTITIONS = 2
ROLE = "risk_worker"


class RunningSystem:
    """Redis, Postgres with a role that is no superuser, a worker in a process of its own, and a trader."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.redis = EmbeddedValkey(
            folder / "redis",
            appendfsync="always",
            config={"maxmemory": "2gb", "maxmemory-policy": "noeviction"},
        )
        self.postgres = EmbeddedPostgres(folder / "postgres", config=QUICK_POSTGRES, database="risk")
        self.environ: dict[str, str] = {}
        self._workers: list[ChildProcess] = []
        self._over = threading.Event()
        self._trader = threading.Thread(target=self._trade, daemon=True)

    def __enter__(self) -> Self:
        self.redis.start()
        self.postgres.start()
        with psycopg.connect(self.postgres.url, autocommit=True) as db:
            db.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
            db.execute(f"ALTER DATABASE risk OWNER TO {ROLE}".encode())
            db.execute(f"GRANT CREATE ON SCHEMA public TO {ROLE}".encode())
        self.database_url = self.postgres.url.replace("postgres@", f"{ROLE}@")
        migrations.up(self.database_url)
        self.environ = {
            "REDIS_URL": self.redis.url,
            "POSTGRES_URL": self.database_url,
            "RISK_PARTITIONS": str(PARTITIONS),
        }
        try:
            self.start_worker()
            self._trader.start()
            self.until_well()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for each in self._workers:
            each.__exit__(kind, error, trace)
        if self._trader.ident is not None:
            self._trader.join(20)
        self.postgres.stop()
        self.redis.stop()

    @property
    def worker(self) -> ChildProcess:
        """The one that was started last."""
        return self._workers[-1]

    def start_worker(self) -> None:
        log = self._folder / f"worker-{len(self._workers)}.log"
        self._workers.append(ChildProcess(log, self.environ).start())

    def status(self, **more: str) -> Status:
        return look(Settings.load({**self.environ, **more}))

    def problems(self, **more: str) -> set[str]:
        """Their names."""
        return {each.name for each in problems(self.status(**more))}

    def until(self, names: set[str], **more: str) -> None:
        """Until the problems are these, and no others."""
        self._until(lambda: self.problems(**more) == names, f"the problems {names or 'none'}")

    def until_well(self) -> None:
        """Until nothing is wrong, and a worker has each partition."""

        def is_well() -> bool:
            found = self.status()
            drained = all(each.worker is not None for each in found.partitions or ())
            return not problems(found) and drained and bool(found.totals and found.totals["stored"])

        self._until(is_well, "a system in which nothing is wrong")

    def _until(self, predicate: Callable[[], bool], what: str) -> None:
        try:
            wait_until(predicate, 30, what)
        except AssertionError as error:
            text = "\n".join(line.text for line in lines(self.status()))
            raise AssertionError(f"{error}\n{text}\n{self.worker.log[-2000:]}") from None

    def doctor(self, **more: str) -> list[Finding]:
        return examination({**self.environ, **more})

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis.from_url(self.redis.url, **options)

    def administrator(self) -> psycopg.Connection:
        """Of the database, with autocommit."""
        return psycopg.connect(self.postgres.url, autocommit=True)

    def freeze(self) -> None:
        self.worker.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.worker.signal(signal.SIGCONT)

    def _trade(self) -> None:
        """Save snapshots until it is over, whatever becomes of them."""
        with RiskProducer(redis_url=self.redis.url, partitions=PARTITIONS, on_full="refuse") as producer:
            number = 0
            while not self._over.wait(0.05):
                number += 1
                with suppress(Exception):
                    producer.save(snapshot(f"trader-{number % 8}", float(number)))
            producer.close(1.0)
