"""The system under chaos: workers and producers in processes of their own, on an engine; and its faults."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

import psycopg
import redis

from risk_devkit.embedded import EmbeddedServerError
from risk_producer import RiskSnapshot
from risk_producer.contract import wire
from risk_producer.contract.keys import Keys, Keyspace, partition_of
from risk_producer.contract.scripts import number_in
from risk_worker.database import migrations
from tests.chaos.engine import Begun, Engine, Undo, nothing
from tests.chaos.producer import POISON
from tests.chaos.schedule import WORKERS, Fault
from tests.support.process import ChildProcess
from tests.support.wait import wait_until

TRADERS_EACH: Final = 4
ROOT: Final = Path(__file__).parents[2]
OFFSETS_S: Final = (-2 * 86_400, -3_600, -1, 3_600, 20 * 3_600)
"""How far a clock is off; a trader's not by more than what a snapshot may be ahead."""
READY: Final = "The worker is ready"
WARNING: Final = re.compile(r"\S+ \S+ (WARNING|ERROR|CRITICAL) ")
"""At the beginning of a worker's log line."""
LIBFAKETIME: Final = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1")
SHIFTED: Final = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds)
from risk_worker.cli import cli
cli(["worker"])
"""
"""A worker for libfaketime: where that leaves the monotonic clock alone, time.sleep() ends with EINVAL."""

ASYNCIO: Final = "producer-1"
"""Which producer's traders use AsyncRiskProducer."""


class System:
    """Everything that runs. A context manager that leaves nothing behind."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        *,
        rate: float,
        workers: Sequence[str] = WORKERS,
        producers: Sequence[str] = (),
        partitions: int = 0,
        traders_each: int = TRADERS_EACH,
        maxlen: int = 1500,
        batch_size: int = 100,
        desks: int = 0,
    ) -> None:
        """producers, partitions: by default those of the engine. desks: how many namespaces; 0: none."""
        self.folder = folder
        self.engine = engine
        self.rate = rate
        self.workers = workers
        self.producers = producers or engine.producers
        self.partitions = partitions or engine.partitions
        self.keyspace = Keyspace.of(f"desk{number}" for number in range(desks))
        self._traders_each = traders_each
        self._maxlen = maxlen
        self._batch_size = batch_size
        self.poison_sure: dict[str, bytes] = {}
        """Entry id -> payload, of what was added by hand."""
        self.poison_perhaps: set[bytes] = set()
        """Payloads for which no answer came."""
        self.foreign: set[str] = set()
        """Traces of sound snapshots that no producer sent."""
        self.wrong: list[str] = []
        """What was seen while it ran that must not be."""
        self.seen: Counter[str] = Counter()
        """What else is worth knowing, counted."""
        self._stack = ExitStack()
        self._operators: list[tuple[str, ChildProcess]] = []
        self._down: set[str] = set()
        self._frozen: set[str] = set()
        self._lives = count(1)
        self._starting = threading.Lock()
        """Held while it is seen whether a worker runs, and it is started where it does not."""
        self._zombies: list[ChildProcess] = []
        self._spools: dict[str, Path] = {}
        self._notes_of: dict[ChildProcess, Path] = {}

    def __enter__(self) -> System:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        enter = self._stack.enter_context
        enter(self.engine.running(self.folder))
        self.postgres = self.engine.postgres
        migrations.up(self.postgres.url)
        self.execute(f"ALTER TABLE risk_state_history ADD CONSTRAINT no_poison CHECK (reason <> '{POISON}')")
        common = {
            "RISK_PARTITIONS": str(self.partitions),
            "RISK_STREAM_MAXLEN": str(self._maxlen),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        desks = {"RISK_NAMESPACES": ",".join(self.keyspace.namespaces)}
        self._worker_environment = {
            **common,
            **desks,
            **self.engine.environment("worker"),
            "RISK_BATCH_SIZE": str(self._batch_size),
            "RISK_DRAIN_TIMEOUT_S": "5",
        }
        self._producer_environment = common | self.engine.environment("producer")
        self._operator_environment = common | desks | self.engine.environment("operator")
        self.processes = {name: enter(self._worker(name)) for name in self.workers}
        for name in self.producers:
            if name != self.producers[0]:  # that one has memory alone
                self._spools[name] = self.folder / f"spool-{name}"
            self.processes[name] = enter(self._producer(name))
        wait_until(lambda: all(READY in self.processes[name].log for name in self.workers), 30, "the workers")

    def _worker(self, name: str, *command: str, **environment: str) -> ChildProcess:
        return ChildProcess(
            self.folder / f"{name}.log",
            self._worker_environment | environment,
            command,
            host=lambda: self.engine.host_of(name),
        )

    def _producer(self, name: str) -> ChildProcess:
        notes = self.folder / f"notes-{name}-{next(self._lives)}"
        first = self.producers.index(name) * self._traders_each
        command = [
            sys.executable,
            "-m",
            "tests.chaos.producer",
            str(notes),
            name,
            "asyncio" if name == ASYNCIO else "threaded",
            str(self.rate / len(self.producers)),
            *(_trader(name, first + number, self.partitions) for number in range(self._traders_each)),
        ]
        spool = {"RISK_SPOOL_DIR": str(self._spools[name])} if name in self._spools else {}
        process = ChildProcess(
            self.folder / f"{name}.log",
            self._producer_environment | spool | {"RISK_NAMESPACE": self._desk_of(name)},
            command,
            host=lambda: self.engine.host_of(name),
        )
        self._notes_of[process] = notes
        return process

    def _desk_of(self, producer: str) -> str:
        names = self.keyspace.namespaces
        return names[self.producers.index(producer) % len(names)]

    @property
    def streams(self) -> list[Keys]:
        """The keys of each."""
        return [self.keyspace.keys(number) for number in self.keyspace.numbers(self.partitions)]

    @property
    def notes(self) -> list[Path]:
        """The producers' files."""
        return sorted(self.folder.glob("notes-*"))

    # Faults.

    def begin(self, fault: Fault) -> Begun:
        """Let it happen. Faults of different targets may be begun, and undone, at the same time."""
        if fault.target in self.engine.targets:
            return self.engine.begin(fault)
        if fault.target in self.workers:
            return Begun(self._hit_worker(fault))
        if fault.target in self.producers:
            return Begun(self._hit_producer(fault))
        hit = {
            "postgres": self._hit_postgres,
            "stream": self._add_by_hand,
            "fields": self._spoil_fields,
            "operator": self._operate,
            "nothing": self._be_calm,
        }
        return Begun(hit[fault.target](fault))

    def supervise(self) -> None:
        """As whatever runs workers: bring back those that ended by themselves. See how commands ended."""
        for name in self.workers:
            self._keep_running(name)
        for name in self.producers:
            if name not in self._down and not self.processes[name].running:
                self.wrong.append(f"{name} ended by itself: {self.processes[name].log[-1500:]}")
                self._down.add(name)
        for each in list(self._operators):
            command, process = each
            if process.running:
                continue
            self._operators.remove(each)
            status = process.wait(1)
            self.seen[f"`{command}` ended with status {status}"] += 1
            output = process.log
            if "Traceback" in output or (command == "verify" and status == 1 and not _names_fields(output)):
                self.wrong.append(f"`{command}` on the running system printed:\n{output[-2000:]}")

    def _keep_running(self, name: str) -> None:
        """Start a worker that has ended by itself."""
        with self._starting:
            worker = self.processes[name]
            if name not in self._down and not worker.running:
                self.seen[f"worker ended by itself with status {worker.wait(1)}"] += 1
                worker.start()

    def warnings(self) -> Counter[str]:
        """Process -> warnings and errors that it has logged; a producer logs nothing else."""
        found = Counter[str]()
        for name, process in self.processes.items():
            lines = process.log.splitlines()
            found[name] = sum(name in self.producers or bool(WARNING.match(line)) for line in lines)
        return found

    def _hit_worker(self, fault: Fault) -> Undo:
        self._keep_running(fault.target)
        process = self.processes[fault.target]
        if fault.kind == "freeze":
            process.signal(signal.SIGSTOP)
            return lambda: process.signal(signal.SIGCONT)
        if fault.kind == "clocks":
            return self._shift_clock(fault)
        self._down.add(fault.target)
        if fault.kind == "kill -9 amid a batch":
            with self._nothing_commits():
                process.kill()
        elif fault.kind == "kill -9":
            process.kill()
        else:
            process.signal(signal.SIGTERM)
            if fault.kind == "terminate twice":
                process.signal(signal.SIGTERM)

        def start() -> None:
            if not fault.kind.startswith("kill -9"):
                self._ended(fault.target, process)
            process.start()
            self._down.discard(fault.target)

        return start

    def _shift_clock(self, fault: Fault) -> Undo:
        """The worker is killed and started with another clock; at the end likewise, with the right one."""
        if not LIBFAKETIME.exists():
            raise EmbeddedServerError("libfaketime is not installed")
        offset_s = OFFSETS_S[fault.number % len(OFFSETS_S)]
        shifted = {
            "LD_PRELOAD": str(LIBFAKETIME),
            "FAKETIME": f"{offset_s:+d}",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self._replace_worker(fault.target, sys.executable, "-c", SHIFTED, **shifted)
        return lambda: self._replace_worker(fault.target)

    def _replace_worker(self, name: str, *command: str, **environment: str) -> None:
        self._down.add(name)
        if self.processes[name].running:
            self.processes[name].kill()
        self.processes[name] = self._stack.enter_context(self._worker(name, *command, **environment))
        self._down.discard(name)

    @contextlib.contextmanager
    def _nothing_commits(self) -> Iterator[None]:
        """A lock on history for a moment, so that the workers hold batches; or no database."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(psycopg.Error):
                connection = stack.enter_context(psycopg.connect(self.postgres.url, connect_timeout=2))
                connection.execute("SET lock_timeout = '2s'")
                connection.execute("LOCK TABLE risk_state_history")
                time.sleep(0.3)  # some batches' worth of snapshots arrive
            yield

    def _ended(self, name: str, process: ChildProcess) -> None:
        """A worker that was asked to stop stops, whoever is away."""
        try:
            process.wait(20)
        except AssertionError:
            self.wrong.append(f"{name} did not stop within 20 s after SIGTERM: {process.log[-1500:]}")
            process.kill()

    def _hit_producer(self, fault: Fault) -> Undo:
        name = fault.target
        old = self.processes[name]
        if not old.running:
            return nothing
        if fault.kind in ("values", "clocks"):
            order = self.folder / f"{fault.kind}-{name}"
            order.write_text(str(OFFSETS_S[fault.number % len(OFFSETS_S)]))
            return order.unlink
        if fault.kind == "kill -9":
            self._down.add(name)
            old.kill()

            def start() -> None:
                self.processes[name] = self._stack.enter_context(self._producer(name))
                self._down.discard(name)

            return start
        old.signal(signal.SIGSTOP)
        self._zombies.append(old)
        if name in self._spools:  # the old one's is locked
            self._spools[name] = self.folder / f"spool-{name}-{next(self._lives)}"
        self.processes[name] = self._stack.enter_context(self._producer(name))

        def wake() -> None:
            """The frozen one goes on beside its successor, and is asked to leave."""
            old.signal(signal.SIGCONT)
            old.signal(signal.SIGTERM)

        return wake

    def _hit_postgres(self, fault: Fault) -> Undo:
        if fault.kind in ("kill -9", "restart"):
            self.postgres.kill() if fault.kind == "kill -9" else self.postgres.stop()
            return self.postgres.start
        if fault.kind == "freeze":
            self.postgres.pause()
            return self.postgres.resume
        if fault.kind == "terminate backends":
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'riskstream-worker'"
            )
            return nothing
        if fault.kind == "read-only":
            self._set_read_only("on")
            return lambda: self._set_read_only("off")
        connection = self._stack.enter_context(psycopg.connect(self.postgres.url))
        if fault.kind == "lock history":
            connection.execute("SET lock_timeout = '3s'")
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                connection.execute("LOCK TABLE risk_state_history")
        else:
            connection.execute("SELECT FROM risk_state ORDER BY trader_id LIMIT 1 FOR UPDATE")
        return connection.close

    def _set_read_only(self, value: str) -> None:
        self.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        self.execute("SELECT pg_reload_conf()")

    def _spoil_fields(self, fault: Fault) -> Undo:
        """Values that neither a producer nor a worker writes."""
        chance = random.Random(fault.number)
        keys = chance.choice(self.streams)
        bad = chance.choice([b"abc", b"", b"-7", b"1.5", b"9" * 40, b"\xff\xfe", str(2**63).encode()])
        with self.engine.client(keys.snapshots) as client:
            epochs = {name: value for name, value in self._hash(client, keys.epochs).items() if name}
            if not epochs:
                return nothing
            trader, epoch = chance.choice(sorted(epochs.items()))
            if fault.kind == "foreign counters":  # no program repairs them
                key = chance.choice(
                    [keys.counters, keys.attempts, keys.failures, keys.latency_ms, keys.latency_buckets]
                )
                names = sorted(self._hash(client, key)) or [trader]
                client.hset(key, cast(str, chance.choice(names)), cast(str, bad))
                return nothing
            key, name, value = chance.choice(
                [
                    (keys.epochs, trader, epoch),
                    (keys.admitted, epoch + b":" + trader, client.hget(keys.admitted, epoch + b":" + trader)),
                ]
            )
            if value is None:
                return nothing
            client.hset(key, cast(str, name), cast(str, bad))

        def restore() -> None:
            with self.engine.client(keys.snapshots) as client:
                if client.hget(key, cast(str, name)) == bad:
                    client.hset(key, cast(str, name), cast(str, value))

        return restore

    @staticmethod
    def _hash(client: redis.Redis, key: str) -> dict[bytes, bytes]:
        return cast(dict[bytes, bytes], client.hgetall(key))

    def _add_foreign(self, client: redis.Redis, keys: Keys, chance: random.Random) -> None:
        """A sound snapshot of a trader that exists, with an epoch that was never given out."""
        epochs = {name: value for name, value in self._hash(client, keys.epochs).items() if name}
        if not epochs:
            return
        trader, epoch = chance.choice(sorted(epochs.items()))
        trace = f"foreign.{chance.randrange(2**63):x}"
        snapshot = RiskSnapshot(
            trader_id=trader.decode(),
            daily_pnl=0.0,
            drawdown_pct=0.0,
            current_equity=-1.0,
            peak_equity=0.0,
            trace_id=trace,
        )
        given_out = number_in(epoch) or 0  # another fault may have spoiled it
        never = chance.choice([given_out + 10**9 + chance.randrange(10**6), 9 * 10**18])
        self.foreign.add(trace)
        client.xadd(keys.snapshots, {"s": wire.encode(snapshot, never, 1)})

    def _add_by_hand(self, fault: Fault) -> Undo:
        chance = random.Random(fault.number)
        keys = chance.choice(self.streams)
        with self.engine.client(keys.snapshots) as client, contextlib.suppress(redis.RedisError):
            if fault.kind == "foreign entries":
                self._add_foreign(client, keys, chance)
                return nothing
            if fault.kind == "copy by hand":
                latest = cast(dict[bytes, bytes], client.hgetall(keys.latest))
                if self.keyspace.is_several:  # whose a trader is has to be known before another desk names it
                    known = self.execute("SELECT trader_id FROM risk_state WHERE namespace <> ''")
                    latest = {name: latest[name] for name in latest if (name.decode(),) in known}
                into = chance.choice(self.streams) if self.keyspace.is_several else keys
                for payload in sorted(latest.values())[: chance.randint(1, 4)]:
                    client.xadd(into.snapshots, {"s": payload})
                return nothing
            for _ in range(chance.randint(1, 5)):
                payload = _poison(chance)
                self.poison_perhaps.add(payload)
                entry_id = cast(bytes, client.xadd(keys.snapshots, {"s": payload})).decode()
                if not self.engine.confirmed(client):
                    continue
                self.poison_perhaps.discard(payload)
                self.poison_sure[f"{keys.snapshots} {entry_id}"] = payload
        return nothing

    def _be_calm(self, _fault: Fault) -> Undo:
        return nothing

    def _operate(self, fault: Fault) -> Undo:
        command = "verify" if fault.kind == "verify" else "dead retry"
        process = ChildProcess(
            self.folder / f"operator-{fault.at_s}.log",
            self._operator_environment,
            [sys.executable, "-m", "risk_worker", *command.split()],
        )
        self._operators.append((command, self._stack.enter_context(process)))
        return nothing

    def run_operator(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of riskstream, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "risk_worker", *command],
            env={**os.environ, **self._operator_environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    # The end.

    def stop_producers(self) -> None:
        """SIGTERM; each says what is left, and nothing may be."""
        # One that is asked to leave before it has begun leaves in its spool what its predecessor promised.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: all(self._has_begun(self.processes[name]) for name in self.producers), 30)
        for name in self.producers:
            self._down.add(name)
            if self.processes[name].running:
                self.processes[name].signal(signal.SIGTERM)
        for process in [*(self.processes[name] for name in self.producers), *self._zombies]:
            try:
                status = process.wait(70)
            except AssertionError as error:
                self.wrong.append(str(error))
                continue
            if status == -signal.SIGTERM and not self._notes_of[process].exists():
                continue  # asked to leave before it had begun
            if status != 0:
                self.wrong.append(f"a producer ended with status {status}: {process.log[-1500:]}")

    def _has_begun(self, producer: ChildProcess) -> bool:
        return self._notes_of[producer].exists() or not producer.running

    def stop_workers(self) -> None:
        """SIGTERM, to all at once; everything is healthy, so they leave in good order."""
        for name in self.workers:
            self._down.add(name)
            self.processes[name].signal(signal.SIGTERM)
        for name in self.workers:
            self._ended(name, self.processes[name])

    def in_flight(self) -> int:
        """Entries in the streams."""
        found = 0
        for keys in self.streams:
            with self.engine.client(keys.snapshots) as client:
                found += client.xlen(keys.snapshots)
        return found

    def execute(self, statement: str) -> list[Any]:
        """One statement, by the superuser, directly."""
        with psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=5) as connection:
            connection.execute("SET default_transaction_read_only = off; SET lock_timeout = '60s'")
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


def _trader(producer: str, number: int, partitions: int) -> str:
    """A trader of the partition `number`, modulo their number: so each partition has one."""
    names = (f"{producer}-trader-{number}.{each}" for each in count())
    return next(name for name in names if partition_of(name, partitions) == number % partitions)


def _poison(chance: random.Random) -> bytes:
    """Bytes that are no snapshot, each different."""
    mark = f"{chance.randrange(2**63):x}"
    return chance.choice(
        [
            b"\xff\x00" + mark.encode(),
            f'{{"v":9,"mark":"{mark}"}}'.encode(),
            f'{{"v":1,"trader_id":"x","mark":"{mark}"}}'.encode(),
            b"[" * 2000 + mark.encode(),
            mark.encode() * 50_000,
        ]
    )


def _names_fields(output: str) -> bool:
    """Whether verify found nothing but fields that a fault has spoiled: that is its task."""
    found = [line for line in output.splitlines() if line.startswith("✗ ")]
    spoiled = [line for line in found if "is no number that can be counted with" in line]
    return bool(spoiled) and len(found) == len(spoiled) + 1
