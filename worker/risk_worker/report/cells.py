"""What the parts of the report are made of: sections, tables of columns, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from risk_worker.picture.figures import NONE, amount, cut, length, local, moment
from risk_worker.picture.markup import Markup, element, joined
from risk_worker.query.questions import PauseRow
from risk_worker.report.facts import Facts, Trader

REASON: Final = 240
"""Characters of a reason that are shown."""

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Column(Generic[Thing]):
    """A column of a table of things, one a row."""

    head: str
    cell: Callable[[Thing], str]
    kind: str | None = None
    """Classes: n, a number; t, a time; o, left out where there is little room."""
    order: Callable[[Thing], float] | None = None
    """By what it is sorted, where that is not what is shown."""


def section(anchor: str, title: str, *content: Markup) -> Markup:
    """A part with its heading, which a link can lead to."""
    heading = f"{anchor}-title"
    return element("section", element("h2", title, id=heading), *content, id=anchor, aria_labelledby=heading)


def table(
    caption: str,
    columns: Sequence[Column[Thing]],
    things: Iterable[Thing],
    *,
    none: str,
    kind: str | None = None,
    kind_of: Callable[[Thing], str | None] = lambda _: None,
) -> Markup:
    """The first column names what a row is about. none: what is written where there is no row.

    kind, kind_of: the class of the table and of each row. In a table "stack" each cell has its head with it.
    """
    first, *others = columns
    rows = [
        element(
            "tr",
            element("th", first.cell(thing), scope="row"),
            *(
                element(
                    "td",
                    column.cell(thing),
                    class_=column.kind,
                    data_s=None if column.order is None else column.order(thing),
                    data_head=column.head if kind == "stack" else None,
                )
                for column in others
            ),
            class_=kind_of(thing),
        )
        for thing in things
    ]
    if not rows:
        return element("p", none, class_="note")
    heads = [element("th", each.head, scope="col", class_=each.kind) for each in columns]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", *heads)),
            element("tbody", *rows),
            class_=kind,
        ),
        class_="scroll",
    )


def name(trader: Trader) -> Markup:
    """A link to the trader's card."""
    return element("a", text(trader.trader_id, 80), href=f"#t{trader.number}")


def text(text: str, most: int) -> Markup:
    """A text of the database: whatever its direction of writing is, it turns nothing around it."""
    return element("bdi", cut(text, most))


def reason(pause: PauseRow) -> Markup:
    """Why it began."""
    return text(pause.reason, REASON) if pause.reason else Markup("no reason was given")


def snapshot(pause: PauseRow) -> Markup:
    """By which snapshot it began: epoch, seq, and the trader's own mark of it."""
    trace = joined(" ", text(pause.trace_id, 40)) if pause.trace_id else None
    return joined(f"{pause.epoch}/{pause.seq}", trace)


def profit(trader: Trader) -> str:
    """The day's profit and loss; none where the trader has not reported in the day."""
    if not trader.reported:
        return NONE
    value = trader.last.daily_pnl
    return element("span", amount(value, signed=True), class_="down" if value < 0 else None)


def status(trader: Trader, facts: Facts, *, quiet: bool = False) -> Markup:
    """Paused, silent, both or neither. quiet: nothing where all is well."""
    found = []
    if trader.paused is not None:
        found.append(element("span", f"paused since {time(trader.paused.since, facts)}", class_="tag"))
    if trader.silent_s is not None:
        found.append(element("span", f"silent for {length(trader.silent_s)}", class_="tag silence"))
    return joined(*found) if found or quiet else Markup("trading")


def time(value: datetime, facts: Facts) -> str:
    """The time of the day; with the day before it where that is another one."""
    there = local(value, facts.zone)
    return f"{there:%H:%M:%S}" if facts.since <= value < facts.end else f"{there:%-d %b %H:%M}"


def stamp(value: datetime, facts: Facts) -> Markup:
    """With its day, and for programs with its zone."""
    return element("time", moment(value, facts.zone), datetime=value.isoformat())
