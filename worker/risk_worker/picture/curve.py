"""What a picture of a trader's equity shows: lines between silences, pauses, and the scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from statistics import median_low
from typing import Final

from risk_worker.picture import axis
from risk_worker.query.questions import CurveRow, PauseRow

SILENT_AFTER: Final = 2
"""A silence is where the next bucket with a snapshot begins later than so many times the usual distance."""
STEPS: Final = 1_200
"""Steps that a picture has at the most: more than there are pixels for are put together."""
_FAR: Final = 2.0
"""A peak that is farther above the equity than so many times its range is not on the scale, which would
otherwise show a straight line."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the time that is shown."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """What the snapshots of a bucket were, or of several buckets side by side."""

    since: datetime
    until: datetime
    open: float
    close: float
    low: float
    high: float
    peak: float
    drawdown: float
    """The worst, in percent."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A trader's equity, drawdown and pauses between two times. In the account's currency and in percent."""

    trader: str
    since: datetime
    until: datetime
    bucket: timedelta
    zone: tzinfo
    """Of the labels."""
    lines: tuple[tuple[Step, ...], ...]
    """What is joined; between two of them is a silence."""
    silences: tuple[Span, ...]
    """Where no snapshot came, at both ends too."""
    pauses: tuple[Span, ...]
    equity: axis.Scale
    drawdown: axis.Scale
    peak_is_off: bool
    """Whether the peak is above the scale of the equity."""

    @property
    def steps(self) -> Iterator[Step]:
        """All, in the order of their time."""
        return (step for line in self.lines for step in line)

    @property
    def last(self) -> Step | None:
        """The newest."""
        return self.lines[-1][-1] if self.lines else None

    @property
    def worst(self) -> Step | None:
        """The one with the greatest drawdown, the first of several."""
        return max(self.steps, key=lambda step: step.drawdown, default=None)

    def x(self, moment: datetime) -> float:
        """0 at since, 1 at until; what is beyond them is at the end."""
        return min(1.0, max(0.0, (moment - self.since) / (self.until - self.since)))


def picture_of(
    trader: str,
    rows: Sequence[CurveRow],
    pauses: Iterable[PauseRow],
    *,
    bucket: timedelta,
    since: datetime,
    until: datetime,
    zone: tzinfo,
    marks: int = 4,
) -> Picture:
    """Of the answers to Curve and Pauses. until: as far as snapshots could have come.

    marks: on the scale of the equity. The span that is shown is widened to whole buckets.
    """
    until = max(until, since + bucket)
    lines, silences = _lines(rows, bucket, since, until)
    shown = (
        Span(min(since, rows[0].bucket), max(until, rows[-1].bucket + bucket)) if rows else Span(since, until)
    )
    shorter = _fewer(lines, shown)
    steps = [step for line in shorter for step in line]
    low, high = (
        min((step.low for step in steps), default=0.0),
        max((step.high for step in steps), default=0.0),
    )
    peak = max((step.peak for step in steps), default=0.0)
    off = bool(steps) and peak - high > _FAR * max(high - low, abs(high) * 1e-3)
    return Picture(
        trader=trader,
        since=shown.since,
        until=shown.until,
        bucket=bucket,
        zone=zone,
        lines=shorter,
        silences=tuple(silences),
        pauses=_bands(pauses, shown),
        equity=axis.scale(low, high if off else max(high, peak), marks=marks),
        drawdown=axis.scale_from_zero(max((step.drawdown for step in steps), default=0.0), marks=3),
        peak_is_off=off,
    )


def _lines(
    rows: Sequence[CurveRow], bucket: timedelta, since: datetime, until: datetime
) -> tuple[list[list[Step]], list[Span]]:
    """The usual distance is the median: to report each hour makes no silences in buckets of a minute."""
    if not rows:
        return [], [Span(since, until)]
    between = sorted(after.bucket - before.bucket for before, after in pairwise(rows))
    usual = max(bucket, median_low(between)) if between else bucket
    lines: list[list[Step]] = [[]]
    silences = []
    if rows[0].bucket - since > SILENT_AFTER * usual:
        silences.append(Span(since, rows[0].bucket))
    end = rows[0].bucket
    for row in rows:
        if lines[-1] and row.bucket - lines[-1][-1].since > SILENT_AFTER * usual:
            silences.append(Span(end, row.bucket))
            lines.append([])
        end = row.bucket + bucket
        lines[-1].append(_step(row, end))
    if until - rows[-1].bucket > SILENT_AFTER * usual:
        silences.append(Span(end, until))
    return lines, silences


def _step(row: CurveRow, end: datetime) -> Step:
    return Step(
        row.bucket,
        end,
        row.open_equity,
        row.close_equity,
        row.low_equity,
        row.high_equity,
        row.peak_equity,
        row.worst_drawdown_pct,
    )


def _fewer(lines: Sequence[Sequence[Step]], shown: Span) -> tuple[tuple[Step, ...], ...]:
    """The same lines with STEPS steps at the most, each with the extremes of those it is put together of."""
    if sum(map(len, lines)) <= STEPS:
        return tuple(map(tuple, lines))
    width = (shown.until - shown.since) / STEPS
    return tuple(tuple(_joined(line, shown.since, width)) for line in lines)


def _joined(line: Sequence[Step], since: datetime, width: timedelta) -> Iterator[Step]:
    group: list[Step] = []
    for step in line:
        if group and (step.since - since) // width != (group[0].since - since) // width:
            yield _one(group)
            group = []
        group.append(step)
    yield _one(group)


def _one(group: Sequence[Step]) -> Step:
    return Step(
        group[0].since,
        group[-1].until,
        group[0].open,
        group[-1].close,
        min(step.low for step in group),
        max(step.high for step in group),
        group[-1].peak,
        max(step.drawdown for step in group),
    )


def _bands(pauses: Iterable[PauseRow], shown: Span) -> tuple[Span, ...]:
    """The pauses within what is shown; those that are nearer to each other than a step are one."""
    near = (shown.until - shown.since) / STEPS
    bands: list[Span] = []
    for pause in pauses:
        since, until = max(pause.since, shown.since), min(pause.until or shown.until, shown.until)
        if since >= until:
            continue
        if bands and since - bands[-1].until < near:
            bands[-1] = Span(bands[-1].since, max(bands[-1].until, until))
        else:
            bands.append(Span(since, until))
    return tuple(bands)
