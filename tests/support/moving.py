"""Traders that go on while the number of partitions changes, and what became of all that they sent."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from risk_producer import RiskProducer, StateUnknown
from risk_producer.settings import Settings
from risk_worker.audit.verify import verify
from risk_worker.recovery import repartition
from risk_worker.stream import partitions
from risk_worker.stream.source import connect
from tests.support.factory import snapshot
from tests.support.process import ChildProcess
from tests.support.producers import OnLoop, Producer, Threaded
from tests.support.wait import wait_until

TRADING_PROCESS = """
import sys
from risk_producer import RiskProducer
from tests.support.factory import snapshot
with RiskProducer.from_env() as producer:
    for number, _ in enumerate(sys.stdin):
        producer.push(snapshot(sys.argv[1], number), timeout=60)
        print(number, flush=True)
"""
"""Pushes a snapshot for each line that it reads, and says so; its daily_pnl numbers them."""


class Trading(threading.Thread):
    """The traders of one producer, in turn: they push each second snapshot, and save the others."""

    def __init__(self, producer: Producer, names: list[str], pause_s: float) -> None:
        super().__init__(daemon=True)
        self.producer = producer
        self.names = names
        self.next = dict.fromkeys(names, 0)
        self.confirmed = dict.fromkeys(names, -1)
        """trader -> the newest that push() confirmed; daily_pnl numbers them."""
        self.failed: BaseException | None = None
        self.over = threading.Event()
        self.may_go = threading.Event()
        self.may_go.set()
        self.rests = threading.Event()
        """It saves nothing just now, and all that it accepted is confirmed."""
        self._pause_s = pause_s

    def run(self) -> None:
        try:
            while not self.over.wait(self._pause_s):
                if not self.may_go.is_set():
                    assert self.producer.flush(60)
                    self.rests.set()
                    self.may_go.wait()
                    self.rests.clear()
                for name in self.names:
                    self._report(name)
        except BaseException as error:  # noqa: BLE001  the test's own thread shows it
            self.failed = error

    def _report(self, name: str) -> None:
        number = self.next[name]
        self.next[name] = number + 1
        if number % 2:
            self.producer.push(snapshot(name, number), timeout=60)
            self.confirmed[name] = number
        else:
            assert self.producer.save(snapshot(name, number))


class Loading(threading.Thread):
    """Loads the traders' states in turn: with a producer that was there before all changes and sends nothing,
    with new ones, and with those that trade."""

    def __init__(self, redis_url: str, tradings: list[Trading]) -> None:
        super().__init__(daemon=True)
        self._url = redis_url
        self._tradings = tradings
        self.over = threading.Event()
        self.wrong: list[str] = []
        self.certain = 0
        self.uncertain = 0

    def run(self) -> None:
        with RiskProducer(self._url, partitions=3) as old:
            while not self.over.is_set():
                for trading in self._tradings:
                    with RiskProducer(self._url) as new:
                        for name in trading.names:
                            for producer in (old, new, trading.producer):
                                self._load(producer, name, trading)

    def _load(self, producer: Any, name: str, trading: Trading) -> None:
        least = trading.confirmed[name]
        try:
            state = producer.load(name)
        except StateUnknown:
            self.uncertain += 1
            return
        if state is None:
            if least >= 0:
                self.wrong.append(f"{name} has no state, after {least}")
        elif state.unanswered:
            self.uncertain += 1
        elif state.snapshot.daily_pnl < least:
            self.wrong.append(f"{name} is at {state.snapshot.daily_pnl}, after {least}")
        else:
            self.certain += 1


class Moving:
    """A context manager that leaves nothing behind."""

    def __init__(
        self, folder: Path, redis_url: str, database_url: str, *, producers: int, pause_s: float
    ) -> None:
        self._folder = folder
        self._environ = {"REDIS_URL": redis_url, "POSTGRES_URL": database_url, "RISK_PARTITIONS": "4"}
        self._redis_url = redis_url
        self._database_url = database_url
        self._stack = ExitStack()
        self._stopped: list[int] = []
        self.settings = Settings.load(self._environ)
        self.workers: list[ChildProcess] = []
        self.tradings: list[Trading] = []
        self._producers = producers
        self._pause_s = pause_s
        self.process = ChildProcess(
            folder / "trading.log",
            {**self._environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            [sys.executable, "-c", TRADING_PROCESS, "of-a-process"],
            stdin=-1,
        )
        self._sent = 0
        self._emptied = False

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        for number in range(2):
            worker = ChildProcess(self._folder / f"worker-{number}.log", self._environ)
            self.workers.append(enter(worker))
        enter(self.process)
        for number in range(self._producers):
            options: dict[str, Any] = {"redis_url": self._redis_url, "partitions": 1 + number}
            if number % 4 > 1:
                options["spool_dir"] = self._folder / f"spool-{number}"
            made: Any = OnLoop(**options) if number % 2 else Threaded(**options)
            if isinstance(made, OnLoop):
                self._stack.callback(made.stop)
            self._stack.callback(made.close)
            names = [f"t{2 * number}", f"t{2 * number + 1}"]
            self.tradings.append(Trading(made, names, self._pause_s))
        self.loading = Loading(self._redis_url, self.tradings)
        for thread in (*self.tradings, self.loading):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loading.over.set()
        for each in self.tradings:
            each.over.set()
            each.may_go.set()
        self._stack.close()

    def change(self, number: int) -> None:
        """By the command."""
        assert str(number) in repartition.change(self.settings, number)

    def have_all_moved(self, number: int) -> bool:
        self.check()
        return all(each.producer.health().partitions == number for each in self.tradings)

    def go_on(self, count: int) -> None:
        """Wait until each trader has sent so many more."""
        before = [sum(each.next.values()) for each in self.tradings]

        def went_on() -> bool:
            self.check()
            now = [sum(each.next.values()) for each in self.tradings]
            return all(one - other >= 2 * count for one, other in zip(now, before, strict=True))

        wait_until(went_on, 30, f"{count} more of each trader")

    def check(self) -> None:
        for each in self.tradings:
            if each.failed is not None:
                raise AssertionError(f"{each.names}: {each.failed!r}") from each.failed
        assert not self.loading.wrong, self.loading.wrong[:5]

    def report(self) -> None:
        """One more of the trading process."""
        self.process.write(b"\n")
        self._sent += 1

    def reported(self) -> bool:
        """Whether the trading process has confirmed all."""
        return sum(line.isdigit() for line in self.process.log.splitlines()) == self._sent

    def kill_worker(self, number: int) -> None:
        """And start another."""
        self.workers[number].kill()
        self.workers[number].start()

    def empty_redis(self) -> None:
        """When all is stored: Redis loses its data."""
        self._emptied = True
        for each in self.tradings:
            each.may_go.clear()
        for each in self.tradings:
            wait_until(each.rests.is_set, 60, "a rest")
        wait_until(self.is_drained, 60, "all is stored")
        with connect(self._redis_url) as client:
            client.flushdb()
        for each in self.tradings:
            each.may_go.set()

    def is_drained(self) -> bool:
        with connect(self._redis_url) as client:
            return not partitions.look(client, self.settings.keyspace, 1).entries

    def end(self) -> None:
        """Stop all, and see that everything is there once, in its order, and that nothing is in the wrong."""
        for each in self.tradings:
            each.over.set()
        for each in self.tradings:
            each.join(60)
            assert each.producer.close(60)
        self.loading.over.set()
        self.loading.join(60)
        self.check()
        assert self.loading.certain > 0
        self.process._process.stdin.close()  # type: ignore[union-attr]
        wait_until(lambda: self.reported() and not self.process.running, 60, "the trading process ends")
        wait_until(self.is_drained, 60, "all is stored")
        sent = {name: count for each in self.tradings for name, count in each.next.items()}
        sent["of-a-process"] = self._sent
        with psycopg.connect(self._database_url) as db:
            for name, count in sent.items():
                rows = db.execute(
                    "SELECT daily_pnl FROM risk_state_history WHERE trader_id = %s ORDER BY epoch, seq",
                    [name],
                ).fetchall()
                assert [row[0] for row in rows] == list(range(count)), f"{name}: {len(rows)} of {count}"
                state = db.execute("SELECT daily_pnl FROM risk_state WHERE trader_id = %s", [name]).fetchone()
                assert state == (count - 1,)
        report = verify(self.settings)
        assert report.reconciled, report.problems[:5]
        for worker in () if self._emptied else self.workers:  # RQ logs it where its job is gone
            before, found, after = worker.log.partition("Traceback")
            assert not found, before[-500:] + found + after[:3000]
