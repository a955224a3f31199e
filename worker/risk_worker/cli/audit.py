"""verify."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import click

from risk_worker.cli.options import EXIT_BAD, Moment, complain, echo_pieces, settings


@click.command()
@click.option("--trader", help="Only the books of one trader, each of its lives with a line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the sums, and what is off.")
@click.option(
    "--retained-since",
    type=Moment(),
    help="What was recorded before this time (2026-01-31), or longer ago than this (90d), need not be in "
    "history. TimescaleDB says it by itself.",
)
def verify(trader: str | None, as_json: bool, retained_since: timedelta | datetime | None) -> None:
    """Check the books: nothing lost, nothing twice, no state behind.

    accepted + foreign = stored + dead + conflated + in flight + not retained. It may run at any time. Exit
    status 0: they balance. 1: something is off, and it is named, or the trader is unknown. 2: nothing can be
    said, because Redis or Postgres could not be asked.
    """
    from risk_worker.audit import verify as module

    try:
        report = module.verify(settings(), trader, retained_since)
    except module.TraderUnknown as error:
        complain(error)
        sys.exit(EXIT_BAD)
    echo_pieces(report.as_json() if as_json else [report.as_text(each_life=trader is not None)])
    sys.exit(0 if report.balanced else EXIT_BAD)
