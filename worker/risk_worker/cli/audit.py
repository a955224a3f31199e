"""verify."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import click

from risk_worker.cli.options import (
    EXIT_BAD,
    Moment,
    complain,
    echo_pieces,
    progress_on_stderr,
    settings,
)


@click.command()
@click.option("--trader", help="Only one trader, with a line for each of its epochs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the sums, and what is wrong.")
@click.option(
    "--retained-since",
    type=Moment(),
    help="What was recorded before this time (2026-01-31), or longer ago than this (90d), may be gone from "
    "history. With TimescaleDB this is known without the option.",
)
@click.option(
    "--deep",
    is_flag=True,
    help="Read what is sealed again, too, and compare it with its seals (seal verify --deep).",
)
def verify(
    trader: str | None, as_json: bool, retained_since: timedelta | datetime | None, deep: bool
) -> None:
    """Reconcile what was accepted with what is stored: nothing lost, no duplicates, no state behind.

    accepted + foreign = stored + dead + conflated + in flight + not retained. It may run at any time. What is
    sealed is counted by the seals' totals, and not read again: so it takes no longer as history grows. Exit
    status 0: reconciled. 1: something is wrong, and it is named, or the trader is unknown. 2: nothing is
    known, because Redis or Postgres did not answer.
    """
    from risk_worker.audit import render
    from risk_worker.audit import verify as module

    try:
        report = module.verify(
            settings(), trader, retained_since, deep=deep, progress=progress_on_stderr() if deep else None
        )
    except module.TraderUnknown as error:
        complain(error)
        sys.exit(EXIT_BAD)
    if as_json:
        echo_pieces(render.as_json(report))
    else:
        echo_pieces([render.as_text(report, each_epoch=trader is not None)])
    sys.exit(0 if report.reconciled else EXIT_BAD)
