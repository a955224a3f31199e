"""The ten questions of a desk, asked as a user would, of a week of five traders. pandas knows the answers.

The desk is where it is between 16:00 and 17:00 now, and its days end at 18:00: no day ends meanwhile.
"""

from __future__ import annotations

import csv
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pandas
import psycopg
import pytest
from click.testing import CliRunner, Result

from risk_worker.cli import cli
from risk_worker.database.store import PostgresStore
from risk_worker.drain.loop import drain
from risk_worker.stream.source import StreamSource, connect
from tests.integration.query.conftest import STATES
from tests.support.servers import Databases

EVERY: Final = timedelta(minutes=5)
ROWS: Final = 7 * 24 * 12
TRADERS: Final = ("alpha-1", "beta-2", "gamma-3", "delta-4", "epsilon-5")
REASON: Final = "=drawdown over 2 %"
"""A spreadsheet would run it."""
COLUMNS: Final = (
    *("trader_id", "recorded_at", "epoch", "seq", "reason", "trace_id", "daily_pnl", "drawdown_pct"),
    *(
        "current_equity",
        "peak_equity",
        "trading_paused",
        "paused_until",
        "last_reset_time",
        "merged",
        "stored_at",
    ),
)
FIGURES: Final = ["daily_pnl", "drawdown_pct", "current_equity", "peak_equity"]


@dataclass(frozen=True)
class Desk:
    """A database, and what is in it."""

    url: str
    frame: pandas.DataFrame
    """A row a snapshot, in the order of time, with the desk's `day` of each."""
    now: datetime
    """By the clocks of the desk."""
    day_began: datetime

    def run(self, *arguments: str, expected: int = 0, **environ: str) -> Result:
        zone = f"Etc/GMT{-int(self.now.utcoffset() / timedelta(hours=1)):+d}"  # type: ignore[operator]
        settings = {"POSTGRES_URL": self.url, "RISK_TZ": zone, "RISK_DAY_ENDS": "18:00", **environ}
        done = CliRunner().invoke(cli, arguments, env=settings)
        assert done.exit_code == expected, done.output
        return done

    def ask(self, *arguments: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.run(*arguments, "--format", "json").stdout)
        return rows

    @property
    def today(self) -> pandas.DataFrame:
        return self.frame[self.frame.day == self.now.date()]

    def at(self, clock: str) -> datetime:
        """A time of the calendar's day."""
        hour, minute = map(int, clock.split(":"))
        return self.now.replace(hour=hour, minute=minute, second=0, microsecond=0)

    def of(self, trader: str) -> pandas.DataFrame:
        return self.frame[self.frame.trader_id == trader]


def snapshots(trader: str, now: datetime) -> Iterator[tuple[Any, ...]]:
    """Every five minutes of the week until now; a pause of an hour where the drawdown exceeds its limit."""
    chance = random.Random(trader)
    equity = peak = began = 100_000.0
    pause = 0
    day = None
    late = now.replace(hour=14, minute=40, second=0, microsecond=0)
    for n in range(ROWS):
        at = now - EVERY * (ROWS - n) + timedelta(milliseconds=TRADERS.index(trader))
        equity += chance.gauss(0, 200)
        today = (at + timedelta(hours=6)).date()
        if today != day:
            day, began, peak = today, equity, equity
        peak = max(peak, equity)
        drawdown = 100 * (peak - equity) / peak
        begins = pause == 0 and drawdown > 2.5
        if trader == "alpha-1" and n >= ROWS - 24:
            begins, pause = n == ROWS - 10, 0 if n < ROWS - 10 else ROWS
        pause = 12 if begins else max(0, pause - 1)
        if trader == "beta-2" and n >= ROWS - 8:
            return
        is_late = trader == "delta-4" and timedelta() <= late - at < timedelta(minutes=50)
        yield (
            *(trader, at, 1 + n // 700, 1 + n % 700, REASON if begins else "", f"{trader}/{n}"),
            *(equity - began, drawdown, equity, peak, begins or pause > 0),
            *(at + timedelta(hours=1) if begins or pause else None, at - timedelta(hours=1), 0),
            late if is_late else at + timedelta(seconds=1),
        )


@pytest.fixture(scope="module")
def desk(databases: Databases, migrated_template: str) -> Iterator[Desk]:
    now = datetime.now(UTC)
    hours = (16 - now.hour + 12) % 24 - 12
    now = now.astimezone(timezone(timedelta(hours=hours)))
    rows = [row for trader in TRADERS for row in snapshots(trader, now)]
    url = databases.create(migrated_template)
    with psycopg.connect(url, autocommit=True) as db:
        with db.cursor().copy(f"COPY risk_state_history ({', '.join(COLUMNS)}) FROM STDIN".encode()) as copy:
            for row in sorted(rows, key=lambda row: row[-1]):
                copy.write_row(row)
        db.execute(STATES.encode())
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    frame["day"] = (frame.recorded_at + timedelta(hours=6)).dt.date
    began = now.replace(hour=18, minute=0, second=0, microsecond=0) - timedelta(days=1)
    made = Desk(url, frame, now, began)
    made.run("seal", "run")
    yield made
    databases.drop(url)


def begins(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The rows that begin a pause, of one trader."""
    return frame[frame.trading_paused & ~frame.trading_paused.shift(fill_value=False)]


def moments(rows: list[dict[str, Any]], name: str) -> list[datetime]:
    return [datetime.fromisoformat(row[name]) for row in rows]


def test_who_is_paused_and_why(desk: Desk) -> None:
    paused = [trader for trader in TRADERS if desk.of(trader).trading_paused.iloc[-1]]
    assert "alpha-1" in paused
    expected = [begins(desk.of(trader)).iloc[-1] for trader in sorted(paused)]
    found = desk.ask("pauses")
    assert [(row["trader_id"], row["reason"], row["until"]) for row in found] == [
        (each.trader_id, each.reason, None) for each in expected
    ]
    assert moments(found, "since") == [each.recorded_at for each in expected]
    assert found[0]["reason"] == REASON
    assert REASON in desk.run("pauses").stdout


def test_the_equity_of_a_trader_today(desk: Desk) -> None:
    mine = desk.today[desk.today.trader_id == "gamma-3"]
    hours = mine.groupby((mine.recorded_at - desk.day_began) // timedelta(hours=1)).current_equity
    expected = hours.agg(["size", "first", "max", "min", "last"])
    found = desk.ask("curve", "gamma-3", "--bucket", "1h")
    assert len(found) >= 22
    assert moments(found, "bucket") == [desk.day_began + timedelta(hours=int(n)) for n in expected.index]
    names = ("snapshots", "open_equity", "high_equity", "low_equity", "close_equity")
    assert [[row[name] for name in names] for row in found] == expected.to_numpy().tolist()


def test_the_worst_drawdown_today_over_all(desk: Desk) -> None:
    worst = desk.today.loc[desk.today.drawdown_pct.idxmax()]
    [found] = desk.ask("drawdown", "--top", "1")
    assert (found["trader_id"], found["drawdown_pct"], found["trace_id"]) == (
        *(worst.trader_id, worst.drawdown_pct, worst.trace_id),
    )
    of_each = desk.today.groupby("trader_id").drawdown_pct.max().to_dict()
    assert {row["trader_id"]: row["drawdown_pct"] for row in desk.ask("drawdown")} == of_each


def test_who_fell_silent(desk: Desk) -> None:
    newest = desk.frame.groupby("trader_id").recorded_at.max()
    silent = newest[newest < desk.now - timedelta(minutes=20)]
    assert list(silent.index) == ["beta-2"]
    [found] = desk.ask("stale", "--older-than", "20m")
    assert (found["trader_id"], moments([found], "recorded_at")) == ("beta-2", list(silent))
    assert found["silent_s"] >= 2_400


def test_what_was_known_at_14_05(desk: Desk) -> None:
    """delta-4's snapshots of that time came at 14:40."""
    time = desk.at("14:05")
    until_then = desk.frame[desk.frame.recorded_at <= time]
    known = until_then[until_then.stored_at <= time].groupby("trader_id").trace_id.last()
    true = until_then.groupby("trader_id").trace_id.last()
    assert list(known.index[known != true]) == ["delta-4"]
    found = desk.ask("asof", "14:05", "--known-at", "14:05")
    assert {row["trader_id"]: row["trace_id"] for row in found} == known.to_dict()
    assert all(row["final"] for row in found)
    found = desk.ask("asof", "14:05")
    assert {row["trader_id"]: row["trace_id"] for row in found} == true.to_dict()
    assert not any(row["final"] for row in found)


def test_which_snapshot_triggered_the_pause(desk: Desk) -> None:
    all_of = pandas.concat([begins(desk.of(trader)) for trader in sorted(TRADERS)])
    found = desk.ask("pauses", "--since", "7d")
    # Those that were over by then are not in it.
    first = desk.now - timedelta(days=7)
    assert len(found) > 1 and all_of.recorded_at.min() > first
    assert [row["trace_id"] for row in found] == list(all_of.trace_id)
    mine = next(row for row in found if row["trader_id"] == "alpha-1" and row["until"] is None)
    [snapshot] = desk.ask("asof", mine["since"], "alpha-1")
    trigger = begins(desk.of("alpha-1")).iloc[-1]
    assert [snapshot[name] for name in ("trace_id", "epoch", "seq", *FIGURES)] == [
        trigger[name] for name in ("trace_id", "epoch", "seq", *FIGURES)
    ]


def test_what_each_day_of_the_week_brought(desk: Desk) -> None:
    monday = desk.now.date() - timedelta(days=desk.now.weekday())
    for week in (monday, monday - timedelta(days=7)):
        frame = desk.frame[(desk.frame.day >= week) & (desk.frame.day < week + timedelta(days=7))]
        last = frame.groupby(["trader_id", "day"]).daily_pnl.last().to_dict()
        found = desk.ask("pnl", "--week", str(week))
        assert {
            (row["trader_id"], datetime.fromisoformat(row["day"]).date()): row["daily_pnl"] for row in found
        } == last
    assert desk.ask("pnl") == desk.ask("pnl", "--week", str(monday)) == desk.ask("pnl", "--week", "today")


def read_csv(path: Path, **options: Any) -> pandas.DataFrame:
    """Figures as Python reads them: to the last bit."""
    return pandas.read_csv(path, converters=dict.fromkeys(FIGURES, float), **options)


def same(found: pandas.DataFrame, expected: pandas.DataFrame) -> None:
    """The same snapshots, to the last bit."""
    for name in ("trader_id", "trace_id", "trading_paused", *FIGURES):
        assert found[name].tolist() == expected[name].tolist(), name
    assert found.reason.fillna("").tolist() == expected.reason.tolist()
    for name in ("recorded_at", "last_reset_time"):
        assert pandas.to_datetime(found[name], utc=True, format="ISO8601").tolist() == expected[name].tolist()


def test_an_export_for_a_spreadsheet(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "week.csv"
    desk.run("export", "--out", str(out))
    assert out.read_bytes().startswith(b"\xef\xbb\xbftrader_id,")
    with out.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            assert not row["reason"].startswith(("=", "+", "-", "@"))
    found = read_csv(out, encoding="utf-8-sig")
    assert set(found.reason.dropna()) == {f"'{REASON}"}
    found["reason"] = found.reason.str.removeprefix("'")
    same(found, desk.frame.sort_values(["trader_id", "recorded_at"]))


def test_an_export_that_push_reads_back(
    desk: Desk, tmp_path: Path, redis_url: str, database_url: str
) -> None:
    out, again = tmp_path / "week.csv", tmp_path / "again.csv"
    desk.run("export", "--plain", "--out", str(out))
    pushed = desk.run("push", str(out), REDIS_URL=redis_url)
    assert f"{len(desk.frame):,} accepted, 0 bad" in pushed.stderr
    with connect(redis_url) as client, PostgresStore(database_url) as store:
        source = StreamSource(client, [0], batch_size=5_000, block_s=0.01)
        drain(source, store, stop=threading.Event(), over=source.is_empty)
    desk.run("export", "--plain", "--out", str(again), POSTGRES_URL=database_url)
    found = read_csv(again)
    same(found, desk.frame.sort_values(["trader_id", "recorded_at"]))


@pytest.mark.parametrize("library", ["pandas", "parquet"])
def test_an_export_for_programs(desk: Desk, tmp_path: Path, library: str) -> None:
    from risk_worker.query.questions import Export
    from risk_worker.query.reader import RiskReader

    if library == "pandas":
        found = RiskReader(desk.url).ask(Export()).to_frame()
    else:
        desk.run("export", "--out", str(tmp_path / "week.parquet"))
        found = pandas.read_parquet(tmp_path / "week.parquet")
    expected = desk.frame.sort_values(["trader_id", "recorded_at"])
    same(found, expected)
    assert found.stored_at.tolist() == expected.stored_at.tolist()


def test_a_report_that_can_be_mailed(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    desk.run("report", "--html", str(out))
    text = out.read_text(encoding="utf-8")
    assert len(text) < 2_000_000
    assert all(trader in text for trader in TRADERS)
    assert not any(each in text for each in ('src="http', "src='http", 'href="http', "@import", "url(http"))


def test_whether_anything_was_changed_afterwards(desk: Desk) -> None:
    desk.run("seal", "verify", "--deep")
    was = float(desk.of("gamma-3").current_equity.iloc[1000])
    with psycopg.connect(desk.url, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")  # as a superuser could
        change = "UPDATE risk_state_history SET current_equity = %s WHERE trace_id = 'gamma-3/1000'"
        db.execute(change, (was + 0.01,))
        shown = desk.run("seal", "verify", "--deep", expected=1).stdout
        db.execute(change, (was,))
    assert "changed" in shown and "gamma-3" in shown
