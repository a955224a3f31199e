"""What a report says, made up from a seed: pauses, silences, and texts that are not friendly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from risk_worker.picture.curve import picture_of
from risk_worker.query.questions import CurveRow, DrawdownRow, PauseRow, PnlRow, StateRow
from risk_worker.report.facts import Facts, Proof, Trader, Unasked

DAY = datetime(2026, 11, 25, tzinfo=UTC)
"""A Wednesday."""
BUCKET = timedelta(minutes=10)
UNFRIENDLY = (
    "<script>alert(1)</script>",
    """"><img src=x onerror='alert(2)'>&amp;""",
    "\u202eevil\u202c \u2066x\u2069 \u200f",
    "\x1b[31mred\x07 \u2028 \ufeff",
    "</style><style>*{display:none}",
    "javascript:alert(3)//$\\frac{1}{2}$ {{x}} ${x} %s",
    "עברית عربى 中文 👩‍👩‍👧",
    "z" * 10_000,
)


def curve_rows(random: Random, *, buckets: int = 144, without: Sequence[range] = ()) -> list[CurveRow]:
    """A walk from 1,000,000 on. without: buckets that have no snapshot."""
    equity = peak = 1_000_000.0
    rows = []
    for number in range(buckets):
        if any(number in each for each in without):
            continue
        began = equity
        equity *= 1 + random.gauss(0, 0.001)
        high, low = max(began, equity) + 200, min(began, equity) - 200
        peak = max(peak, high)
        worst = (peak - low) / peak * 100
        at = DAY + number * BUCKET
        rows.append(CurveRow(at, 60, began, high, low, equity, peak, worst, equity - 1_000_000, False))
    return rows


def pause(trader: str, since: datetime, until: datetime | None, reason: str = "over the limit") -> PauseRow:
    lasted_s = ((until or DAY + timedelta(days=1)) - since).total_seconds()
    return PauseRow(trader, since, until, lasted_s, reason, "order-1", None, -5.0, 2.5, 99.0, 1, 2)


def trader(number: int, name: str, reason: str, random: Random, **changes: Any) -> Trader:
    """Each third is paused at the end, each fifth is silent since 20:00."""
    silent = number % 5 == 4
    rows = curve_rows(random, without=[range(60, 70), range(120, 144 if silent else 120)])
    since = DAY + timedelta(hours=3 + number % 7)
    pauses = [pause(name, since, since + timedelta(minutes=50), reason)]
    if number % 3 == 2:
        pauses.append(pause(name, DAY + timedelta(hours=21), None, reason))
    newest, worst = rows[-1], max(rows, key=lambda row: row.worst_drawdown_pct)
    at = newest.bucket + BUCKET - timedelta(seconds=5)
    last = StateRow(
        name,
        at,
        5.0,
        newest.daily_pnl,
        newest.worst_drawdown_pct,
        newest.close_equity,
        newest.peak_equity,
        len(pauses) == 2,
        None,
        DAY,
        reason,
        "order-2",
        1,
        900,
        at,
    )
    week = [
        PnlRow(
            name,
            (DAY - timedelta(days=ago)).date(),
            random.gauss(0, 9_000),
            at,
            1.0,
            0.0,
            False,
            DAY,
            1,
            1,
        )
        for ago in (2, 1, 0)
    ]
    made = {
        "number": number,
        "last": last,
        "curve": picture_of(
            name,
            rows,
            pauses,
            bucket=BUCKET,
            since=DAY,
            until=DAY + timedelta(days=1),
            zone=UTC,
            marks=3,
        ),
        "worst": DrawdownRow(
            name,
            worst.worst_drawdown_pct,
            worst.bucket,
            worst.low_equity,
            worst.peak_equity,
            worst.daily_pnl,
            False,
            reason,
            "order-3",
            1,
            3,
        ),
        "pauses": pauses,
        "week": week,
        "reported": True,
        "silent_s": 4 * 3_600.0 if silent else None,
        "paused": pauses[1] if len(pauses) == 2 else None,
    }
    return Trader(**{**made, **changes})


def facts(names: Sequence[str], reasons: Sequence[str] = ("over the limit",), **changes: Any) -> Facts:
    """Of a day that is over. Reasons are taken in turn."""
    random = Random(7)
    made = {
        "now": DAY + timedelta(hours=30, seconds=12),
        "day": DAY.date(),
        "zone": UTC,
        "since": DAY,
        "end": DAY + timedelta(days=1),
        "until": DAY + timedelta(days=1),
        "over": True,
        "older_than": timedelta(minutes=5),
        "bucket": BUCKET,
        "traders": [
            trader(number, name, reasons[number % len(reasons)], random) for number, name in enumerate(names)
        ],
        "proof": Proof(Unasked("REDIS_URL is not set"), None),
    }
    return Facts(**{**made, **changes})
