"""The curves: a card for each trader, small multiples on one scale of time and drawdown."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from risk_worker.picture.axis import Scale
from risk_worker.picture.figures import NONE, amount, clock, length, percent, short
from risk_worker.picture.markup import Markup, element
from risk_worker.query.questions import PauseRow
from risk_worker.report import cells, chart
from risk_worker.report.facts import Facts, Trader

PAUSES: Final = 6
"""Pauses of a trader that are listed, the last ones."""


def curves_section(facts: Facts, scale: Scale) -> Markup:
    buckets = length(facts.bucket.total_seconds())
    legend = element(
        "ul",
        *(
            element("li", element("i", class_=kind), name)
            for kind, name in (
                ("equity", f"equity, and its range in each {buckets}"),
                ("peak", "peak"),
                ("below", "drawdown, on the same scale for all"),
                ("pause", "paused"),
                ("silence", "no snapshot for more than twice the usual distance"),
            )
        ),
        class_="legend",
    )
    cards = element(
        "div",
        *(_card(trader, scale, facts) for trader in facts.traders),
        class_="cards",
    )
    return cells.section("curves", "Curves", legend, cards)


def _card(trader: Trader, scale: Scale, facts: Facts) -> Markup:
    last, worst = trader.last, trader.worst
    figures = [
        ("Equity", amount(last.current_equity)),
        ("P&L", cells.profit(trader)),
        ("Drawdown", percent(last.drawdown_pct)),
        (
            "Worst",
            NONE
            if worst is None
            else f"{percent(worst.drawdown_pct)} at {clock(worst.recorded_at, facts.zone)}",
        ),
    ]
    return element(
        "article",
        element("h3", cells.text(trader.trader_id, 80), cells.status(trader, facts, quiet=True)),
        element(
            "dl",
            *(element("div", element("dt", name), element("dd", value)) for name, value in figures),
        ),
        chart.chart(trader.curve, scale, f"e{trader.number}"),
        _week(trader, facts),
        _pauses(trader, facts),
        id=f"t{trader.number}",
    )


def _week(trader: Trader, facts: Facts) -> Markup:
    monday = facts.day - timedelta(days=facts.day.weekday())
    days = [monday + timedelta(days=number) for number in range(7)]
    found = {row.day: row.daily_pnl for row in trader.week}
    values = [found.get(day) for day in days]
    return element(
        "table",
        element("caption", "P&L of the week"),
        element(
            "thead",
            element(
                "tr",
                *(
                    element("th", f"{day:%a}", scope="col", class_="today" if day == facts.day else None)
                    for day in days
                ),
            ),
        ),
        element(
            "tbody",
            element("tr", element("td", chart.columns(values), colspan=7), aria_hidden="true"),
            element("tr", *(element("td", NONE if value is None else short(value)) for value in values)),
        ),
        class_="week",
    )


def _pauses(trader: Trader, facts: Facts) -> Markup | None:
    if not trader.pauses:
        return None
    listed = trader.pauses[-PAUSES:]
    more = len(trader.pauses) - len(listed)
    return element(
        "ul",
        element("li", f"{more:,} earlier pauses are not listed.") if more else None,
        *(
            element(
                "li",
                element("b", _span(pause, facts)),
                f", {length(pause.lasted_s)}: ",
                cells.reason(pause),
            )
            for pause in listed
        ),
        class_="pauses",
    )


def _span(pause: PauseRow, facts: Facts) -> str:
    since = cells.time(pause.since, facts)
    return f"since {since}" if pause.until is None else f"{since} to {cells.time(pause.until, facts)}"
