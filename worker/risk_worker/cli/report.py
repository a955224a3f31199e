"""report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import click

from risk_worker.cli.options import EXIT_BAD, settings
from risk_worker.cli.query import desk, file_option, options_of
from risk_worker.query import files
from risk_worker.query.questions import Drawdown, Stale


def _report(html: Path, **given: Any) -> None:
    """A report of a day in one HTML file, that can be mailed: it asks no network for anything.

    How all traders stand, who is paused and why, who is silent, the worst drawdowns, a curve of each trader,
    the totals of verify, and the last entry of the chain of seals. All but these two is as of one moment,
    which the report names. Without Redis it says that nothing was verified. Exit status 1: the report is
    written, and what verify found is not good.
    """
    from risk_worker.report.facts import Unasked, gather
    from risk_worker.report.page import page

    chosen = settings()
    given = {name: value for name, value in given.items() if value is not None}
    facts = gather(chosen, **(desk(chosen) | given))
    text = page(facts).encode()
    with files.whole(html) as part:
        part.write_bytes(text)
    click.echo(
        f"The report of {facts.day} is in {html}: {_traders(len(facts.traders))}, {len(text):,} bytes",
        err=True,
    )
    for unasked in (facts.proof.reconciliation, facts.proof.head):
        if isinstance(unasked, Unasked):
            click.echo(f"riskstream: the report lacks a proof: {unasked.reason}", err=True)
    found = facts.proof.reconciliation
    if not isinstance(found, Unasked) and not found.reconciled:
        click.echo("riskstream: what was accepted and what is stored are not reconciled", err=True)
        sys.exit(EXIT_BAD)


def _traders(count: int) -> str:
    return "1 trader" if count == 1 else f"{count:,} traders"


_LEFT_OUT: Final = {"top"}
report = click.Command(
    "report",
    callback=_report,
    params=[
        file_option("--html", "Write it into this file", required=True),
        *{
            option.name: option
            for question in (Stale, Drawdown)
            for option in options_of(question)
            if option.name not in _LEFT_OUT
        }.values(),
    ],
    help=_report.__doc__,
)
