"""The page: semantic HTML, which is read without scripts and without a network, on paper too."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.metadata import version

from risk_worker.picture.figures import NONE, amount, length, percent
from risk_worker.picture.markup import Markup, element, joined
from risk_worker.report import cards, cells, chart, tables
from risk_worker.report.facts import Facts, Unasked
from risk_worker.report.proof import proof_section


def page(facts: Facts) -> str:
    """The whole file."""
    css, js = _file("report.css"), _file("report.js")
    title = f"Risk report, {facts.day:%-d %B %Y}"
    rules = f"default-src 'none'; style-src '{_digest(css)}'; script-src '{_digest(js)}'; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=rules),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(css)),
    )
    body = element(
        "body",
        element("a", "Skip to the traders", href="#fleet", class_="skip"),
        _header(facts),
        element("main", *_sections(facts)),
        _footer(facts),
        chart.definitions(facts.traders[0].curve) if facts.traders else None,
        element("script", Markup(js)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


@cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


# The parts, from top to bottom


def _header(facts: Facts) -> Markup:
    until = "the whole day" if facts.over else f"until {cells.time(facts.until, facts)}"
    return element(
        "header",
        element("p", "Risk report", class_="kind"),
        element("h1", f"{facts.day:%A}, {facts.day:%-d} {facts.day:%B %Y}"),
        element(
            "p",
            f"{until[0].upper()}{until[1:]}, {facts.zone}. As of ",
            cells.stamp(facts.now, facts),
            " by the clock of the database.",
            class_="asof",
        ),
        _key_figures(facts),
        element(
            "nav",
            *(
                element("a", name, href=f"#{anchor}")
                for name, anchor in (
                    ("Paused", "paused"),
                    ("Silent", "silent"),
                    ("Worst drawdowns", "drawdowns"),
                    ("All traders", "fleet"),
                    ("Curves", "curves"),
                    ("Proof", "proof"),
                )
            ),
            aria_label="Parts of the report",
        ),
    )


def _key_figures(facts: Facts) -> Markup:
    traders = facts.traders
    reported = [each for each in traders if each.reported]
    paused, silent = [each for each in traders if each.paused], facts.silent
    profits = [each.last.daily_pnl for each in reported]
    up, down = sum(each > 0 for each in profits), sum(each < 0 for each in profits)
    worst = max(
        (each.worst for each in traders if each.worst), key=lambda row: row.drawdown_pct, default=None
    )
    reconciliation = facts.proof.reconciliation
    if isinstance(reconciliation, Unasked):
        proof: tuple[str, str, str | None] = ("Not asked", "see Proof", None)
    elif reconciliation.reconciled:
        proof = ("Yes", "nothing is lost", None)
    else:
        proof = ("No", "see Proof", "bad")
    figures: list[tuple[str, str, str | Markup, str | None]] = [
        ("Traders", f"{len(traders):,}", f"{len(reported):,} reported in the day", None),
        ("Paused", f"{len(paused):,}", "at the end" if facts.over else "now", "warn" if paused else None),
        (
            "Silent",
            f"{len(silent):,}",
            f"for more than {length(facts.older_than.total_seconds())}",
            "warn" if silent else None,
        ),
        ("Profit and loss", amount(sum(profits), 0) if profits else NONE, f"{up:,} up, {down:,} down", None),
        (
            "Worst drawdown",
            percent(worst.drawdown_pct) if worst else NONE,
            joined(cells.text(worst.trader_id, 40), f" at {cells.time(worst.recorded_at, facts)}")
            if worst
            else "",
            None,
        ),
        ("Reconciled", *proof),
    ]
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", element("b", value), note), class_=kind)
            for name, value, note, kind in figures
        ),
        class_="key",
    )


def _sections(facts: Facts) -> Iterator[Markup]:
    yield tables.paused_section(facts)
    yield tables.silent_section(facts)
    yield tables.drawdown_section(facts)
    yield tables.fleet_section(facts)
    yield cards.curves_section(facts, chart.common_scale([each.curve for each in facts.traders]))
    yield proof_section(facts.proof)


def _footer(facts: Facts) -> Markup:
    return element(
        "footer",
        element(
            "p",
            f"Made by riskstream {version('riskstream')} from what is stored as of ",
            element("time", facts.now.isoformat(), datetime=facts.now.isoformat()),
            "; all parts but the proof, which was asked before, show the database at that moment. Snapshots "
            "that wait in Redis are not in it. Sums add accounts as if they were in one currency.",
        ),
    )
