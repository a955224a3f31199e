"""What continuous aggregates cost who stores: `python -m benchmarks.aggregates --url postgresql://…`.

Two databases are made on a server with TimescaleDB's Community edition, on this machine, by a role that may
make databases. Both have what `riskstream timescale enable` turns on, and one of them has no aggregates. The
worker's store puts the same batches into both, in turns: new rows, and rows that come a week late, of which
TimescaleDB notes that their buckets have to be refreshed. Then the refresh of all that is measured. The CPU
time is that of the server's process alone, which a machine that others use changes little.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter

import msgspec
import psycopg

from benchmarks.history_forms import cpu_seconds
from benchmarks.rows import EPOCH, TRADERS, snapshot
from benchmarks.timescale import add_url, database, required_url
from risk_producer.contract import wire
from risk_producer.contract.keys import Keys
from risk_producer.settings import Settings
from risk_worker.database import migrations
from risk_worker.database.store import PostgresStore
from risk_worker.drain.batch import Batch, StreamEntry, decode_entries
from risk_worker.timescale.enable import enable
from risk_worker.timescale.policies import AGGREGATES

LATE = timedelta(days=8)
STEP = timedelta(milliseconds=5)
"""Between two rows: 200 a second."""


@dataclass(frozen=True)
class Cost:
    """Of one batch, a row."""

    seconds: float
    cpu_s: float
    wal_bytes: float


class Target:
    """A database with aggregates, or without."""

    def __init__(self, url: str, *, aggregates: bool) -> None:
        self.url = url
        migrations.up(url)
        list(enable(url, Settings(postgres_url=url)))
        self._db = psycopg.connect(url, autocommit=True)
        self._db.execute("SELECT _timescaledb_functions.stop_background_workers()")
        if not aggregates:
            for name in AGGREGATES:
                self._db.execute(f"DROP MATERIALIZED VIEW {name}".encode())
        self._store = PostgresStore(url)

    def store(self, batch: Batch) -> Cost:
        """One transaction of the worker."""
        self._store.identity()  # connected
        [pid] = self._store.backend_pids
        wal, cpu_s, began = self._wal(), cpu_seconds(pid), perf_counter()
        assert self._store.save(batch).dead == []
        rows = len(batch.rows)
        took_s, used_s = perf_counter() - began, cpu_seconds(pid) - cpu_s
        return Cost(took_s / rows, used_s / rows, (self._wal() - wal) / rows)

    def refresh(self, name: str) -> float:
        """Sum up all there is. Seconds."""
        began = perf_counter()
        until = datetime.now(UTC) - AGGREGATES[name][0]
        self._db.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, %s)".encode(), (until,))
        return perf_counter() - began

    def close(self) -> None:
        """Give the connections back."""
        self._store.close()
        self._db.close()

    def _wal(self) -> int:
        [(found,)] = self._db.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
        return int(found)


def batches(first: int, rows: int, size: int, began: datetime) -> Iterator[Batch]:
    """Of so many rows each, as the worker reads them."""
    stream = Keys(0).snapshots
    for start in range(first, first + rows, size):
        numbers = range(start, min(start + size, first + rows))
        entries = []
        for number in numbers:
            made = msgspec.structs.replace(snapshot(number), recorded_at=began + number * STEP)
            entries.append(StreamEntry(f"{number + 1}-0", wire.encode(made, EPOCH, number // TRADERS + 1)))
        yield decode_entries(stream, entries)


def measure(targets: Sequence[Target], first: int, rows: int, size: int, began: datetime) -> list[list[Cost]]:
    """What each batch cost each of them."""
    costs: list[list[Cost]] = [[] for _ in targets]
    for number, batch in enumerate(batches(first, rows, size, began)):
        places = list(range(len(targets)))
        for place in places if number % 2 else reversed(places):  # none is always the first
            costs[place].append(targets[place].store(batch))
    return costs


def show(name: str, costs: Sequence[Sequence[Cost]]) -> None:
    """Medians of the batches, and their ratio, which is taken batch by batch."""
    print(name)
    for what, each in zip(("without aggregates", "with aggregates"), costs, strict=True):
        print(
            f"  {what:<20}{median(1 / cost.seconds for cost in each):>10,.0f} rows/s"
            f"{median(cost.cpu_s for cost in each) * 1e6:>8.1f} µs of the server a row"
            f"{median(cost.wal_bytes for cost in each):>8.0f} bytes of WAL a row"
        )
    without, with_them = costs
    pairs = list(zip(without, with_them, strict=True))
    seconds = median(b.seconds / a.seconds for a, b in pairs)
    used = sum(b.cpu_s for _, b in pairs) / sum(a.cpu_s for a, _ in pairs)
    print(f"  with to without: {seconds:.2f} of the time, {used:.2f} of the server's processor time")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregates")
    add_url(parser)
    parser.add_argument("--rows", type=int, default=200_000, help="new ones, and as many that come late")
    parser.add_argument("--batch", type=int, default=2_000, help="rows of a transaction")
    arguments = parser.parse_args()
    server_url = required_url(parser, arguments.url)
    now = datetime.now(UTC)
    with ExitStack() as stack:
        targets = []
        for name in ("without", "with"):
            url = stack.enter_context(database(server_url, f"benchmark_{name}_aggregates"))
            targets.append(Target(url, aggregates=name == "with"))
            stack.callback(targets[-1].close)
        # Something is summed up before, or TimescaleDB has nothing to note of late rows.
        measure(targets, 0, arguments.batch, arguments.batch, now - timedelta(days=1))
        for name in AGGREGATES:
            targets[1].refresh(name)
        for name, first, began in (
            ("new rows", arguments.batch, now),
            ("rows that come a week late", arguments.batch + arguments.rows, now - LATE),
        ):
            show(name, measure(targets, first, arguments.rows, arguments.batch, began))
        for name in AGGREGATES:
            print(f"refresh of {name} after all of it: {targets[1].refresh(name):.2f} s")


if __name__ == "__main__":
    main()
