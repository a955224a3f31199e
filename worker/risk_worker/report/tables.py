"""The tables about all traders: paused, silent, worst drawdowns, and how each stands."""

from __future__ import annotations

from typing import Final

from risk_worker.picture.figures import NONE, amount, length, percent
from risk_worker.picture.markup import Markup, element
from risk_worker.query.questions import DrawdownRow, PauseRow
from risk_worker.report import cells, chart
from risk_worker.report.cells import Column
from risk_worker.report.facts import Facts, Trader

WORST: Final = 10
"""Traders in the table of the worst drawdowns."""


def paused_section(facts: Facts) -> Markup:
    """Who is paused, and why."""
    found = [(each, each.paused) for each in facts.traders if each.paused is not None]
    columns: list[Column[tuple[Trader, PauseRow]]] = [
        Column("Trader", lambda each: cells.name(each[0])),
        Column("Since", lambda each: cells.stamp(each[1].since, facts), "t"),
        Column("For", lambda each: length((facts.until - each[1].since).total_seconds()), "n"),
        Column("Why", lambda each: cells.reason(each[1]), "wide"),
        Column("Drawdown then", lambda each: percent(each[1].drawdown_pct), "n"),
        Column("Means to go on", lambda each: _means_to_go_on(each[1], facts), "t"),
        Column("Snapshot", lambda each: cells.snapshot(each[1]), "id"),
    ]
    when, was = ("At the end of the day", "was") if facts.over else ("Now", "is")
    caption = f"{when}, each with the snapshot that began the pause."
    table = cells.table(caption, columns, found, none=f"No trader {was} paused.", kind="stack")
    return cells.section("paused", "Paused, and why", table)


def silent_section(facts: Facts) -> Markup:
    """Who has sent nothing for long."""
    columns: list[Column[Trader]] = [
        Column("Trader", cells.name),
        Column("Silent for", lambda each: length(each.silent_s or 0.0), "n"),
        Column("Last recorded", lambda each: cells.stamp(each.last.recorded_at, facts), "t"),
        Column("Stored", lambda each: cells.stamp(each.last.stored_at, facts), "t"),
        Column("Equity", lambda each: amount(each.last.current_equity), "n"),
        Column("Drawdown", lambda each: percent(each.last.drawdown_pct), "n"),
        Column("Paused", lambda each: "no" if each.paused is None else "yes"),
    ]
    long = length(facts.older_than.total_seconds())
    caption = f"No snapshot was recorded or stored for more than {long}."
    none = f"No trader is silent for more than {long}."
    table = cells.table(caption, columns, facts.silent, none=none, kind="stack")
    return cells.section("silent", "Silent", table)


def drawdown_section(facts: Facts) -> Markup:
    """The worst of the day."""
    found = [(each, each.worst) for each in facts.traders if each.worst is not None]
    found.sort(key=lambda each: (-each[1].drawdown_pct, each[0].number))
    most = max(found[0][1].drawdown_pct, 1e-9) if found else 1.0
    columns: list[Column[tuple[Trader, DrawdownRow]]] = [
        Column("Trader", lambda each: cells.name(each[0])),
        Column("Drawdown", lambda each: percent(each[1].drawdown_pct), "n"),
        Column("", lambda each: chart.bar(each[1].drawdown_pct / most), "b"),
        Column("At", lambda each: cells.time(each[1].recorded_at, facts), "t"),
        Column("Equity then", lambda each: amount(each[1].current_equity), "n o"),
        Column("Peak then", lambda each: amount(each[1].peak_equity), "n o"),
        Column("Paused then", lambda each: "yes" if each[1].trading_paused else "no", "o"),
    ]
    caption = f"The greatest of each trader in the day; the first {WORST}."
    none = "There is no snapshot of the day."
    table = cells.table(caption, columns, found[:WORST], none=none)
    return cells.section("drawdowns", "Worst drawdowns", table)


def fleet_section(facts: Facts) -> Markup:
    """How each trader stands; the script sorts and filters it."""
    columns: list[Column[Trader]] = [
        Column("Trader", cells.name),
        Column("", lambda each: chart.spark(each.curve, f"e{each.number}"), "s o"),
        Column("Equity", lambda each: amount(each.last.current_equity), "n o"),
        Column("Profit and loss", cells.profit, "n"),
        Column("Drawdown", lambda each: percent(each.last.drawdown_pct), "n o"),
        Column("Worst", lambda each: percent(each.worst.drawdown_pct) if each.worst else NONE, "n"),
        Column("At", lambda each: cells.time(each.worst.recorded_at, facts) if each.worst else NONE, "t o"),
        Column(
            "Paused in all", lambda each: _paused_for(each, facts), "n o", lambda each: _paused_s(each, facts)
        ),
        Column(
            "Last snapshot",
            lambda each: cells.time(each.last.recorded_at, facts),
            "t o",
            lambda each: each.last.recorded_at.timestamp(),
        ),
        Column("Status", lambda each: cells.status(each, facts)),
    ]
    caption = (
        "Equity, drawdown and status are those at the end of what is reported; profit and loss is that of "
        "the day, as the trader counts it."
    )
    table = cells.table(
        caption, columns, facts.traders, none="No trader is known.", kind="fleet", kind_of=_kinds
    )
    return cells.section("fleet", "All traders", _filter(), table)


def _filter() -> Markup:
    """Hidden where no script runs."""
    kinds = [
        element(
            "label",
            element("input", type="radio", name="show", value=value, checked=None if value else ""),
            name,
        )
        for name, value in (("all", ""), ("paused", "paused"), ("silent", "silent"))
    ]
    text = element("input", type="search", autocomplete="off", spellcheck="false")
    return element(
        "form",
        element("label", "Find a trader", text),
        element("fieldset", element("legend", "Show"), *kinds),
        element("output", aria_live="polite"),
        class_="filter",
        hidden="",
    )


def _kinds(trader: Trader) -> str | None:
    paused, silent = trader.paused is not None, trader.silent_s is not None
    return " ".join(name for name, holds in (("paused", paused), ("silent", silent)) if holds) or None


def _means_to_go_on(pause: PauseRow, facts: Facts) -> str:
    return NONE if pause.paused_until is None else cells.stamp(pause.paused_until, facts)


def _paused_for(trader: Trader, facts: Facts) -> str:
    seconds = _paused_s(trader, facts)
    return length(seconds) if seconds else NONE


def _paused_s(trader: Trader, facts: Facts) -> float:
    """How long it was paused within what is reported, in seconds."""
    return sum(
        max(0.0, (min(each.until or facts.until, facts.until) - max(each.since, facts.since)).total_seconds())
        for each in trader.pauses
    )
