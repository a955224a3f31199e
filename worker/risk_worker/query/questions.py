"""The questions. A new one is a class here, and a file of SQL with its name beside it.

Equity and profit are in the account's currency, drawdowns in percent, lengths of time in seconds (_s).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec

from risk_producer.contract.snapshot import RECORDED_AT_END, RECORDED_AT_MIN
from risk_worker.query.question import BadQuestion, Question, Setting, count, day, length, moment, trader

_ROWS_MAX: Final = 100_000_000
_DAY: Final = timedelta(days=1)


class StateRow(msgspec.Struct, frozen=True, gc=False):
    """The newest stored snapshot of a trader, and how old it is."""

    trader_id: str
    recorded_at: datetime
    age_s: float
    """Since recorded_at, by the clock of the database; below 0: the trader's clock is ahead."""
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: bool
    paused_until: datetime | None
    last_reset_time: datetime
    reason: str
    trace_id: str
    epoch: int
    seq: int
    stored_at: datetime
    waiting: int | None = None
    """Accepted snapshots of all traders that waited in Redis; None: it could not be asked."""


@dataclass(frozen=True)
class State(Question[StateRow]):
    """The newest stored state of each trader, or of TRADER."""

    trader: Annotated[str | None, trader()] = None


class SnapshotRow(msgspec.Struct, frozen=True, gc=False):
    """A snapshot as history has it."""

    trader_id: str
    recorded_at: datetime
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    peak_equity: float
    trading_paused: bool
    paused_until: datetime | None
    last_reset_time: datetime
    reason: str
    trace_id: str
    epoch: int
    seq: int
    merged: int
    stored_at: datetime


@dataclass(frozen=True)
class History(Question[SnapshotRow]):
    """Snapshots of TRADER, the newest first. Without options the last 20."""

    trader: Annotated[str, trader()]
    last: Annotated[int | str | None, count("So many of them at the most.", most=_ROWS_MAX)] = None
    since: Annotated[datetime | str | None, moment("Recorded at this time or later.")] = None
    until: Annotated[datetime | str | None, moment("Recorded before this time.")] = None

    def derived(self, values: Mapping[str, Any], setting: Setting) -> Mapping[str, Any]:
        return {"last": 20} if values["last"] is values["since"] is values["until"] is None else {}


class AsOfRow(SnapshotRow, frozen=True, gc=False):
    """A snapshot as history has it, and how sure the answer is."""

    final: bool = False
    """Whether it stays the answer: known_at is sealed. Else a snapshot may come that is later."""


@dataclass(frozen=True)
class AsOf(Question[AsOfRow]):
    """What was true at TIME: the last snapshot of each trader, or of TRADER, that was recorded until then.

    With --known-at: as far as it was stored at that time; once that is sealed, the answer is final.
    """

    time: Annotated[datetime | str, moment("By the clock of the trader.", positional=True)]
    trader: Annotated[str | None, trader()] = None
    known_at: Annotated[
        datetime | str | None, moment("Only what was stored until then, by the clock of the database.")
    ] = None

    def derived(self, values: Mapping[str, Any], setting: Setting) -> Mapping[str, Any]:
        if values["known_at"] is not None and values["known_at"] < values["time"]:
            raise BadQuestion(
                f"known_at: at {values['known_at'].isoformat()} nothing was known of "
                f"{values['time'].isoformat()}, which is later; give the same time for both"
            )
        return {}


class CurveRow(msgspec.Struct, frozen=True, gc=False):
    """What a trader's snapshots were in a bucket of time. There is no row for a bucket without snapshots."""

    bucket: datetime
    """Its beginning."""
    snapshots: int
    open_equity: float
    high_equity: float
    low_equity: float
    close_equity: float
    peak_equity: float
    """Of the last snapshot, as daily_pnl is."""
    worst_drawdown_pct: float
    daily_pnl: float
    paused: bool
    """Whether one of them was."""


@dataclass(frozen=True)
class Curve(Question[CurveRow]):
    """The equity of TRADER over time, in buckets that each day is divided into. Default: today's."""

    trader: Annotated[str, trader()]
    bucket: Annotated[
        timedelta | str, length("Length of a bucket, 1s to 1d, the day. Default: 5m.", most=_DAY)
    ] = "5m"
    since: Annotated[datetime | str, moment("Recorded at this time or later. Default: today.")] = "today"
    until: Annotated[datetime | str | None, moment("Recorded before this time.")] = None

    def derived(self, values: Mapping[str, Any], setting: Setting) -> Mapping[str, Any]:
        since, until = values["since"], values["until"] or max(values["since"], setting.now)
        first, last = (
            setting.date_of(min(max(each, RECORDED_AT_MIN), RECORDED_AT_END)) for each in (since, until)
        )
        return {
            "starts": [setting.start_of(first + n * _DAY) for n in range((last - first).days + 2)],
            # A bucket ends with its day; none has more than 27 hours.
            "stride": 2 * _DAY if values["bucket"] == _DAY else values["bucket"],
        }


class DrawdownRow(msgspec.Struct, frozen=True, gc=False):
    """The snapshot with the greatest drawdown of a trader in a day."""

    trader_id: str
    drawdown_pct: float
    recorded_at: datetime
    current_equity: float
    peak_equity: float
    daily_pnl: float
    trading_paused: bool
    reason: str
    trace_id: str
    epoch: int
    seq: int


@dataclass(frozen=True)
class Drawdown(Question[DrawdownRow]):
    """The worst drawdown of each trader in a day, the worst first."""

    day: Annotated[date | str, day("Which day. Default: today.")] = "today"
    top: Annotated[int | str | None, count("So many traders at the most.", most=_ROWS_MAX)] = None

    def derived(self, values: Mapping[str, Any], setting: Setting) -> Mapping[str, Any]:
        first = values["day"]
        return {
            "since": setting.start_of(first),
            "until": setting.start_of(first + timedelta(days=1)),
        }


class PauseRow(msgspec.Struct, frozen=True, gc=False):
    """A pause of a trader. Everything but until and lasted_s is of the snapshot that began it."""

    trader_id: str
    since: datetime
    until: datetime | None
    """When the first snapshot after it was recorded that is not paused; None: there is none yet."""
    lasted_s: float
    """Until then, or until now."""
    reason: str
    trace_id: str
    paused_until: datetime | None
    """When the trader meant to go on."""
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    epoch: int
    seq: int
    waiting: int | None = None
    """Accepted snapshots of all traders that waited in Redis; None: it could not be asked."""


@dataclass(frozen=True)
class Pauses(Question[PauseRow]):
    """Who is paused, or was: since when, until when, why, and by which snapshot. Default: who is paused now.

    A pause goes from the first paused snapshot to the first that is not, across restarts of the trader.
    """

    trader: Annotated[str | None, trader()] = None
    since: Annotated[datetime | str, moment("Pauses that had not ended at this time. Default: now.")] = "now"
    until: Annotated[datetime | str | None, moment("Pauses that began before this time.")] = None


class PnlRow(msgspec.Struct, frozen=True, gc=False):
    """The last snapshot of a trader in a day. There is no row for a day without snapshots."""

    trader_id: str
    day: date
    daily_pnl: float
    recorded_at: datetime
    current_equity: float
    drawdown_pct: float
    trading_paused: bool
    last_reset_time: datetime
    epoch: int
    seq: int


@dataclass(frozen=True)
class Pnl(Question[PnlRow]):
    """Profit and loss of each day of a week, Monday to Sunday: the last daily_pnl of a trader in the day."""

    trader: Annotated[str | None, trader()] = None
    week: Annotated[date | str, day("The week with this day. Default: this week.", bare="today")] = "today"

    def derived(self, values: Mapping[str, Any], setting: Setting) -> Mapping[str, Any]:
        monday = values["week"] - timedelta(days=values["week"].weekday())
        days = [monday + timedelta(days=n) for n in range(8)]
        starts = [setting.start_of(each) for each in days]
        return {
            "days": days[:7],
            "starts": starts[:7],
            "ends": starts[1:],
            "since": starts[0],
            "until": starts[7],
        }


class StaleRow(msgspec.Struct, frozen=True, gc=False):
    """The newest stored snapshot of a trader that has been silent."""

    trader_id: str
    silent_s: float
    """Since it was recorded or stored, whichever is longer ago, by the clock of the database."""
    recorded_at: datetime
    stored_at: datetime
    trading_paused: bool
    daily_pnl: float
    drawdown_pct: float
    current_equity: float
    reason: str
    epoch: int
    seq: int
    waiting: int | None = None
    """Accepted snapshots of all traders that waited in Redis; None: it could not be asked."""


@dataclass(frozen=True)
class Stale(Question[StaleRow]):
    """Who fell silent: traders without a newer snapshot, the longest silent first."""

    older_than: Annotated[
        timedelta | str, length("For how long. Default: 5m.", most=timedelta(days=36_500))
    ] = "5m"


@dataclass(frozen=True)
class Export(Question[SnapshotRow]):
    """All snapshots of each trader, or of TRADER, in the order of their time."""

    trader: Annotated[str | None, trader()] = None
    since: Annotated[datetime | str | None, moment("Recorded at this time or later.")] = None
    until: Annotated[datetime | str | None, moment("Recorded before this time.")] = None


QUESTIONS: Final[tuple[type[Question[Any]], ...]] = (
    State,
    History,
    AsOf,
    Curve,
    Drawdown,
    Pauses,
    Pnl,
    Stale,
    Export,
)
"""All of them, in the order of the help."""
