"""What a report says: answers to several questions, all as of one moment, and what was verified before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from itertools import groupby
from math import ceil
from typing import Any, Final

from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_worker.audit import reconcile, verify
from risk_worker.picture.curve import Picture, picture_of
from risk_worker.query.question import BadQuestion, Question
from risk_worker.query.questions import (
    AsOf,
    Curve,
    Drawdown,
    DrawdownRow,
    PauseRow,
    Pauses,
    Pnl,
    PnlRow,
    SnapshotRow,
    Stale,
    State,
    StateRow,
)
from risk_worker.query.reader import Moment, RiskReader
from risk_worker.seal.chain import Run
from risk_worker.seal.verify import last_run
from risk_worker.times import zone_of

STEPS: Final = 28_800
"""Buckets of all curves together, about: by them the page is long."""
_BUCKETS: Final = tuple(timedelta(minutes=each) for each in (2, 5, 10, 15, 30, 60))
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Unasked:
    """Why something could not be asked."""

    reason: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What speaks for the rows: the reconciliation, and the last entry of the chain of seals."""

    reconciliation: reconcile.Report | Unasked
    head: Run | Unasked | None
    """None: nothing is sealed yet."""


@dataclass(frozen=True, slots=True)
class Trader:
    """What is stored of a trader."""

    number: int
    """Its place in the report, from 0 on."""
    last: StateRow | SnapshotRow
    """How it stands at the end of what is reported."""
    curve: Picture
    worst: DrawdownRow | None
    """None: no snapshot in the day."""
    pauses: Sequence[PauseRow]
    """Those that touch the day."""
    week: Sequence[PnlRow]
    """The last snapshot of each day of the week."""
    reported: bool
    """Whether its last snapshot is of the day."""
    silent_s: float | None
    """For how long, if that is too long."""
    paused: PauseRow | None
    """The pause that it is in."""

    @property
    def trader_id(self) -> str:
        """As stored."""
        return self.last.trader_id


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a report says."""

    now: datetime
    """As of when, by the clock of the database."""
    day: date
    zone: tzinfo
    since: datetime
    end: datetime
    """Of the day."""
    until: datetime
    """The end of the day, or now while it lasts."""
    over: bool
    """Whether the day is."""
    older_than: timedelta
    """After so long a trader is silent."""
    bucket: timedelta
    traders: Sequence[Trader]
    proof: Proof

    @property
    def silent(self) -> list[Trader]:
        """The longest first."""
        found = [each for each in self.traders if each.silent_s is not None]
        return sorted(found, key=lambda each: -(each.silent_s or 0.0))


def gather(
    settings: Settings, day: date | str = "today", older_than: timedelta | str = "5m", **common: Any
) -> Facts:
    """Ask Redis and Postgres for all of it. common: what every question takes, as tz.

    The proof is asked first: what is sealed by then is closed, so that the rows of the moment that is
    reported have all of it. What stands in the way of the proof is a part of the report.
    Raises BadQuestion, ConfigurationError, DatabaseUnavailable.
    """
    of_day, stale = Drawdown(day, **common), Stale(older_than, **common)
    reader = RiskReader.from_settings(settings)
    proof = Proof(_reconciliation(settings), _head(settings))
    with reader.at_one_moment() as moment:
        return _gather(moment, of_day, stale.values["older_than"], common, proof)


def _reconciliation(settings: Settings) -> reconcile.Report | Unasked:
    try:
        return verify.verify(settings)
    except RiskError as error:
        return Unasked(str(error))


def _head(settings: Settings) -> Run | Unasked | None:
    try:
        return last_run(settings.require_database_url())
    except RiskError as error:
        return Unasked(str(error))


def _gather(
    moment: Moment, of_day: Drawdown, older_than: timedelta, common: Mapping[str, Any], proof: Proof
) -> Facts:
    now = moment.now()
    since, end = of_day.values["since"], of_day.values["until"]
    if since >= now:
        raise BadQuestion(
            f"day: {of_day.values['day']} begins at {since.isoformat()}, and the clock of the database shows "
            f"{now.isoformat()}"
        )
    over = end <= now
    until = min(end, now)
    newest: Question[StateRow] | Question[SnapshotRow]
    newest = AsOf(until - _MICROSECOND, **common) if over else State(**common)
    last: list[StateRow | SnapshotRow] = list(moment.ask(newest))
    bucket = _bucket(len(last), end - since)
    shown_until = since + ceil((until - since) / bucket) * bucket
    worst = {row.trader_id: row for row in moment.ask(of_day)}
    pauses = _by_trader(moment, Pauses(since=since, until=until, **common))
    week = _by_trader(moment, Pnl(week=of_day.values["day"], **common))
    zone = zone_of(of_day.tz)

    def trader(number: int, row: StateRow | SnapshotRow) -> Trader:
        name = row.trader_id
        mine = pauses.get(name, [])
        asked = Curve(name, bucket, since=since, until=until, **common)
        silence = until - min(row.recorded_at, row.stored_at)
        return Trader(
            number=number,
            last=row,
            curve=picture_of(
                name,
                list(moment.ask(asked)),
                mine,
                bucket=bucket,
                since=since,
                until=shown_until,
                zone=zone,
                marks=3,
            ),
            worst=worst.get(name),
            pauses=mine,
            week=week.get(name, []),
            reported=since <= row.recorded_at < end,
            silent_s=silence.total_seconds() if silence > older_than else None,
            paused=next((each for each in reversed(mine) if each.until is None or each.until >= until), None),
        )

    return Facts(
        now=now,
        day=of_day.values["day"],
        zone=zone,
        since=since,
        end=end,
        until=until,
        over=over,
        older_than=older_than,
        bucket=bucket,
        traders=[trader(number, row) for number, row in enumerate(last)],
        proof=proof,
    )


def _bucket(traders: int, day: timedelta) -> timedelta:
    """The shortest with which the page is not too long."""
    return next((each for each in _BUCKETS if traders * (day / each) <= STEPS), _BUCKETS[-1])


def _by_trader(moment: Moment, question: Question[Any]) -> dict[str, list[Any]]:
    return {name: list(rows) for name, rows in groupby(moment.ask(question), lambda row: row.trader_id)}
