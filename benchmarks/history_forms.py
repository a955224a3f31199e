"""What the form of risk_state_history costs and gives: `python -m benchmarks.history_forms`.

Each form is filled with the same rows in the order in which they would come, in transactions as the worker
makes them, in turns with the others; then the usual questions are asked. The CPU time is the server's
process's own, which a machine that others use changes little; the rates want a quiet one. It needs /proc, and
a server on this machine.

    python -m benchmarks.history_forms --rows 10000000                    an embedded Postgres
    python -m benchmarks.history_forms --url postgresql://… --hypertable  another server's
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import psycopg

from benchmarks.servers import database

TRADERS: Final = 200
TICK_S: Final = 2.0
"""Between two rows: a million are 23 days, so that a hypertable has several chunks."""

_BEFORE: Final = (
    'trader_id text COLLATE "C" NOT NULL, recorded_at timestamptz NOT NULL, epoch bigint NOT NULL, '
    "seq bigint NOT NULL, trace_id text NOT NULL DEFAULT '', reason text NOT NULL DEFAULT '', "
    "daily_pnl float8 NOT NULL, drawdown_pct float8 NOT NULL, current_equity float8 NOT NULL, "
    "peak_equity float8 NOT NULL, trading_paused boolean NOT NULL, paused_until timestamptz, "
    "last_reset_time timestamptz NOT NULL, merged integer NOT NULL DEFAULT 0, "
    "stored_at timestamptz NOT NULL DEFAULT now()"
)
_FIXED_FIRST: Final = (
    "recorded_at timestamptz NOT NULL, stored_at timestamptz NOT NULL DEFAULT now(), epoch bigint NOT NULL, "
    "seq bigint NOT NULL, daily_pnl float8 NOT NULL, drawdown_pct float8 NOT NULL, "
    "current_equity float8 NOT NULL, peak_equity float8 NOT NULL, last_reset_time timestamptz NOT NULL, "
    "merged integer NOT NULL DEFAULT 0, trading_paused boolean NOT NULL, "
    'trader_id text COLLATE "C" NOT NULL, '
    "trace_id text NOT NULL DEFAULT '', reason text NOT NULL DEFAULT '', paused_until timestamptz"
)
_CHECKS: Final = (
    "length(trader_id) BETWEEN 1 AND 255",
    "epoch >= 1",
    "0 <= merged AND merged < seq",
    "recorded_at >= '2000-01-01 00:00:00+00' AND recorded_at < 'infinity'",
    "abs(daily_pnl) < 'infinity'",
    "abs(drawdown_pct) < 'infinity'",
    "abs(current_equity) < 'infinity'",
    "abs(peak_equity) < 'infinity'",
    "length(trace_id) <= 255",
    "length(reason) <= 1024",
)
_COPIED: Final = (
    "trader_id, epoch, seq, recorded_at, daily_pnl, drawdown_pct, current_equity, peak_equity, "
    "trading_paused, "
    "paused_until, last_reset_time, trace_id, reason, merged"
)
# The idle trader's rows are among the first.
_ROWS: Final = f"""
    COPY (
        SELECT CASE WHEN n < 20000 AND n %% {TRADERS} = 7 THEN 'idle'
                ELSE 'trader-' || lpad((n %% {TRADERS})::text, 3, '0') END,
            1::int8, n / {TRADERS} + 1, timestamptz '2026-01-01Z' + n * interval '{TICK_S} s',
            n * 0.25::float8, 1.25::float8, 100000.0::float8 + n, 250000.0::float8, false, NULL::timestamptz,
            date_trunc('day', timestamptz '2026-01-01Z' + n * interval '{TICK_S} s', 'UTC'),
            'trace-' || n, 'tick', 0::int4
        FROM generate_series(%(first)s::int8, %(last)s::int8) AS n
        ORDER BY CASE WHEN %(by_trader)s THEN n %% {TRADERS} END, n
    ) TO STDOUT (FORMAT binary)
"""


@dataclass(frozen=True)
class Form:
    """A table that history could be."""

    name: str
    columns: str = _FIXED_FIRST
    one_check: bool = True
    key: str = "trader_id, recorded_at, epoch, seq"
    index: str = ""
    """More than the key's, with {} for the table."""
    by_trader: bool = False
    """Whether a transaction's rows are in the order of the traders, and not in that of their arrival."""

    @property
    def table(self) -> str:
        return f"h_{self.name}"

    def create(self) -> str:
        """Its CREATE TABLE, and what follows."""
        checks = [" AND ".join(f"({each})" for each in _CHECKS)] if self.one_check else _CHECKS
        constraints = ", ".join(f"CHECK ({each})" for each in checks)
        index = self.index.replace("{}", self.table)
        return f"CREATE TABLE {self.table} ({self.columns}, {constraints}, PRIMARY KEY ({self.key})); {index}"


_BRIN: Final = "CREATE INDEX ON {} USING brin (stored_at) WITH (pages_per_range = 32, autosummarize = on);"
# What the migrations do before each INSERT and COPY, so that a span of time can be closed and sealed.
_CLOSING: Final = (
    _BRIN + "CREATE TABLE mark (closed_until timestamptz NOT NULL); INSERT INTO mark VALUES ('-infinity');"
    "CREATE FUNCTION refuse_closed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
    " SET search_path = pg_catalog, pg_temp AS $$ DECLARE closed timestamptz; BEGIN"
    " LOCK TABLE public.mark IN ROW SHARE MODE;"
    " IF current_setting('transaction_isolation') = 'read committed' THEN"
    " SELECT closed_until INTO STRICT closed FROM public.mark; ELSE"
    " SELECT closed_until INTO STRICT closed FROM public.mark FOR SHARE; END IF;"
    " IF now() < closed THEN RAISE EXCEPTION 'closed'; END IF; RETURN NULL; END $$;"
    "CREATE TRIGGER closed BEFORE INSERT ON {} FOR EACH STATEMENT EXECUTE FUNCTION refuse_closed();"
)
_FIXED: Final = Form("fixed")
FORMS: Final = (
    Form("before", columns=_BEFORE, one_check=False),
    replace(_FIXED, name="fixed_10_checks", one_check=False),
    _FIXED,
    replace(_FIXED, name="fixed_by_trader", by_trader=True),
    replace(_FIXED, name="brin", index=_BRIN),
    replace(_FIXED, name="brin_closing", index=_CLOSING),
    replace(_FIXED, name="brin_by_trader", index=_BRIN, by_trader=True),
    replace(
        _FIXED, name="brin_id", index=_BRIN, columns=f"id bigint GENERATED ALWAYS AS IDENTITY, {_FIXED_FIRST}"
    ),
    replace(_FIXED, name="btree", index="CREATE INDEX ON {} (stored_at);"),
    replace(_FIXED, name="time_key", key="recorded_at, trader_id, epoch, seq"),
    replace(_FIXED, name="time_key_by_trader", key="recorded_at, trader_id, epoch, seq", by_trader=True),
    replace(
        _FIXED,
        name="time_key_trader",
        key="recorded_at, trader_id, epoch, seq",
        index="CREATE INDEX ON {} (trader_id, recorded_at);",
    ),
)
_OF_ALL_TIME: Final = "SELECT * FROM {h} WHERE trader_id = '%s' ORDER BY recorded_at DESC LIMIT 100"
_AS_OF: Final = (
    "SELECT * FROM {h} WHERE trader_id = '%s' AND recorded_at <= '{middle}' "
    "ORDER BY recorded_at DESC, epoch DESC, seq DESC LIMIT 1"
)
_BEFORE_MIDDLE: Final = "recorded_at >= timestamptz '{middle}' - interval '%s' AND recorded_at < '{middle}'"
QUESTIONS: Final = {
    "last 100 of a busy trader": _OF_ALL_TIME % "trader-042",
    "last 100 of an idle trader": _OF_ALL_TIME % "idle",
    "last 100 of an unknown one": _OF_ALL_TIME % "unknown",
    "as of the middle, one trader": _AS_OF % "trader-042",
    "as of the middle, idle trader": _AS_OF % "idle",
    "a day of one trader": (
        "SELECT * FROM {h} WHERE trader_id = 'trader-042' AND " + _BEFORE_MIDDLE % "1 day"
    ),
    "an hour of all": "SELECT count(*) FROM {h} WHERE " + _BEFORE_MIDDLE % "1 hour",
    "1 % by stored_at": "SELECT count(*) FROM {h} WHERE stored_at >= '{from_}' AND stored_at < '{until}'",
    "one row by its key": (
        "SELECT * FROM {h} WHERE trader_id = 'trader-042' AND recorded_at = timestamptz '2026-01-01Z' + "
        "({round} * 200 + 42) * interval '2 s' AND epoch = 1 AND seq = {round} + 1"
    ),
}


class Filled:
    """A form on a server, and what filling it took."""

    def __init__(self, form: Form, connection: psycopg.Connection, *, hypertable: bool) -> None:
        self.form = form
        self.cpu_s, self.elapsed_s, self.rows, self.wal_bytes = 0.0, 0.0, 0, 0
        self._connection = connection
        self._moments: list[Any] = []
        connection.execute(form.create().encode())
        if hypertable:
            connection.execute(
                f"SELECT create_hypertable('{form.table}', by_range('recorded_at', interval '7 days'), "
                "create_default_indexes => false)".encode()
            )

    def add(self, data: bytes, rows: int) -> None:
        """One transaction."""
        connection, pid = self._connection, self._connection.info.backend_pid
        wal = self._wal()
        cpu_s, began = cpu_seconds(pid), perf_counter()
        with (
            connection.transaction(),
            connection.cursor() as cursor,
            cursor.copy(f"COPY {self.form.table} ({_COPIED}) FROM STDIN (FORMAT binary)".encode()) as copy,
        ):
            copy.write(data)
        self.elapsed_s += perf_counter() - began
        self.cpu_s += cpu_seconds(pid) - cpu_s
        self.wal_bytes += self._wal() - wal
        self.rows += rows
        found = connection.execute("SELECT now()").fetchone()
        assert found is not None
        self._moments.append(found[0])

    def sizes(self) -> dict[str, float]:
        """Bytes a row."""
        found = self._connection.execute(
            "SELECT sum(pg_relation_size(oid)) FILTER (WHERE relkind = 'r')::float8, "
            "sum(pg_indexes_size(oid)) FILTER (WHERE relkind = 'r')::float8 "
            "FROM pg_class WHERE oid = %(t)s::regclass "
            "OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = %(t)s::regclass)",
            {"t": self.form.table},
        ).fetchone()
        assert found is not None
        return {"heap_bytes": found[0] / self.rows, "index_bytes": found[1] / self.rows}

    def cost(self) -> dict[str, float]:
        """Of filling it."""
        return {
            "cpu_us_per_row": self.cpu_s / self.rows * 1e6,
            "rows_per_s": self.rows / self.elapsed_s,
            "wal_bytes": self.wal_bytes / self.rows,
            **self.sizes(),
        }

    def ask(self) -> dict[str, dict[str, Any]]:
        """Each question: ms of planning and execution (median of 5), pages, and the scans of the plan."""
        middle = f"timestamptz '2026-01-01Z' + {self.rows // 2} * interval '{TICK_S} s'"
        [(moment,)] = self._connection.execute(f"SELECT ({middle})::text".encode()).fetchall()
        at = len(self._moments) // 2
        words = {
            "h": self.form.table,
            "round": self.rows // TRADERS // 2,
            "middle": moment,
            "from_": self._moments[at],
            "until": self._moments[min(at + max(1, len(self._moments) // 100), len(self._moments) - 1)],
        }
        answers = {}
        for name, question in QUESTIONS.items():
            text = question.format(**words)
            explained = [
                self._connection.execute(
                    f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {text}".encode()
                ).fetchall()[0][0][0]
                for _ in range(5)
            ]
            plan = explained[-1]["Plan"]
            answers[name] = {
                "ms": median(each["Execution Time"] for each in explained),
                "planning_ms": median(each["Planning Time"] for each in explained),
                "pages": plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
                "scans": sorted(set(_scans(plan))),
            }
        return answers

    def _wal(self) -> int:
        [(found,)] = self._connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
        return int(found)


def _scans(plan: dict[str, Any]) -> Iterator[str]:
    if "Scan" in plan["Node Type"]:
        yield plan["Node Type"]
    for each in plan.get("Plans", ()):
        yield from _scans(each)


def cpu_seconds(pid: int) -> float:
    """What a process has used; in hundredths where the kernel keeps no better account."""
    schedule = Path(f"/proc/{pid}/schedstat")
    if schedule.exists():
        return int(schedule.read_text().split()[0]) / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(
    url: str, rows: int, names: list[str], *, batch: int, hypertable: bool
) -> dict[str, dict[str, Any]]:
    """Fill the forms in turns, batch by batch, and ask each."""
    with psycopg.connect(url, autocommit=True) as source, psycopg.connect(url, autocommit=True) as target:
        if hypertable:
            target.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        filled = [Filled(form, target, hypertable=hypertable) for form in FORMS if form.name in names]
        for number, first in enumerate(range(0, rows, batch)):
            data = {
                by_trader: _rows(source, first, batch, by_trader=by_trader) for by_trader in (False, True)
            }
            turn = number % len(filled)
            for each in filled[turn:] + filled[:turn]:
                each.add(data[each.form.by_trader], batch)
        target.execute("VACUUM (ANALYZE)")
        return {each.form.name: {**each.cost(), "questions": each.ask()} for each in filled}


def _rows(source: psycopg.Connection, first: int, batch: int, *, by_trader: bool) -> bytes:
    words = {"first": first, "last": first + batch - 1, "by_trader": by_trader}
    with source.cursor().copy(_ROWS, words) as copy:
        return b"".join(bytes(each) for each in copy)


def show(found: dict[str, dict[str, Any]]) -> None:
    """Two tables."""
    costs = ("cpu_us_per_row", "rows_per_s", "heap_bytes", "index_bytes", "wal_bytes")
    print(f"{'form':<18}" + "".join(f"{name:>16}" for name in costs))
    for name, form in found.items():
        print(f"{name:<18}" + "".join(f"{form[cost]:>16,.1f}" for cost in costs))
    for question in QUESTIONS:
        print(f"\n{question}")
        for name, form in found.items():
            answer = form["questions"][question]
            print(
                f"  {name:<18}{answer['ms']:>10.2f} ms {answer['planning_ms']:>6.2f} ms planning"
                f"{answer['pages']:>9,} pages  {', '.join(answer['scans'])}"
            )


def main() -> None:
    """Measure, then print tables or JSON."""
    parser = argparse.ArgumentParser(description="What the form of the history table costs and gives.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each form")
    parser.add_argument("--batch", type=int, default=2_000, help="rows of a transaction")
    parser.add_argument("--url", help="a server on this machine; without it an embedded Postgres")
    parser.add_argument(
        "--hypertable", action="store_true", help="with TimescaleDB, which the server must have"
    )
    parser.add_argument("--forms", nargs="+", default=[form.name for form in FORMS], help="these alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with database(arguments.url, "history_forms") as url:
        found = measure(
            url, arguments.rows, arguments.forms, batch=arguments.batch, hypertable=arguments.hypertable
        )
    print(json.dumps(found, indent=2)) if arguments.json else show(found)


if __name__ == "__main__":
    main()
