"""verify, and what an operator records about losses: accept, undo, known."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from risk_worker.cli.options import (
    EXIT_BAD,
    Moment,
    complain,
    echo_pieces,
    progress_on_stderr,
    settings,
)

if TYPE_CHECKING:
    from risk_worker.audit.ranges import Range

SEQ_MAX = 2**53
REASON_MAX = 2_000


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """One seq number, or the first and the last of some: 7, 7-9."""

    name = "first-last"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Range:
        if isinstance(value, tuple):
            return value
        first, dash, last = str(value).partition("-")
        texts = (first, last if dash else first)
        if not all(each.isascii() and each.isdigit() and len(each) <= 16 for each in texts):
            self.fail(f"{value!r} is no seq number, and no range of them like 7-9", param, ctx)
        numbers = (int(texts[0]), int(texts[1]))
        if not 1 <= numbers[0] <= numbers[1] < SEQ_MAX:
            self.fail(f"{value!r}: the first is from 1 on, and the last is not below it", param, ctx)
        return numbers


class Reason(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """A text that says something."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = " ".join(str(value).split())
        if not text or "\0" in text or len(text) > REASON_MAX:
            self.fail(f"it expects 1 to {REASON_MAX:,} characters", param, ctx)
        return text


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND [ARGS]...]")
@click.option("--trader", help="Only one trader, with a line for each of its epochs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the sums, and what is wrong.")
@click.option(
    "--since",
    type=Moment(),
    help="What was lost before this time (2026-01-31), or longer ago than this (7d), is no problem. When it "
    "was lost is known by the snapshot that follows in its epoch; where that is not known, it counts.",
)
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
@click.pass_context
def verify(
    ctx: click.Context,
    trader: str | None,
    as_json: bool,
    since: timedelta | datetime | None,
    retained_since: timedelta | datetime | None,
    deep: bool,
) -> None:
    """Reconcile what was accepted with what is stored: nothing lost, no duplicates, no state behind.

    accepted + foreign = stored + dead + dropped + conflated + in flight + not retained + known to be lost. It
    may run at any time. What is sealed is counted by the seals' totals, and not read again: so it takes no
    longer as history grows. Exit status 0: reconciled. 1: something is wrong, and it is named, or the trader
    is unknown. 2: nothing is known, because Redis or Postgres did not answer.

    A loss that is known and explained is accepted by `verify accept`: it is shown, and is no problem.
    """
    if ctx.invoked_subcommand is not None:
        return
    from risk_worker.audit import render
    from risk_worker.audit import verify as module

    try:
        report = module.verify(
            settings(),
            trader,
            retained_since,
            deep=deep,
            progress=progress_on_stderr() if deep else None,
            lost_since=since,
        )
    except module.TraderUnknown as error:
        complain(error)
        sys.exit(EXIT_BAD)
    if as_json:
        echo_pieces(render.as_json(report))
    else:
        echo_pieces([render.as_text(report, each_epoch=trader is not None)])
    sys.exit(0 if report.reconciled else EXIT_BAD)


@verify.command()
@click.argument("trader")
@click.argument("epoch", type=click.IntRange(0, SEQ_MAX))
@click.argument("numbers", metavar="FIRST-LAST", type=Numbers())
@click.option("--reason", required=True, type=Reason(), help="Why they are lost.")
def accept(trader: str, epoch: int, numbers: Range, reason: str) -> None:
    """Record that snapshots are lost: verify shows it from now on, and does not count it as a problem.

    TRADER EPOCH FIRST-LAST is what verify names; one seq number stands for itself. They have to be lost now:
    what is stored, a dead letter, or in flight is refused. Should one of them come all the same, verify names
    it. The entry has who recorded it and when, and stays; `verify undo` undoes it.
    """
    from risk_worker.audit import accept as module
    from risk_worker.recovery.repair import operator

    number = module.accept(settings(), trader, epoch, numbers, reason=reason, by=operator())
    click.echo(f"Recorded as known loss {number}; riskstream verify undo {number} undoes it")


@verify.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--reason", required=True, type=Reason(), help="Why it is not to hold any more.")
def undo(number: int, reason: str) -> None:
    """Undo the known loss NUMBER: verify counts what is lost of it again. Both entries stay."""
    from risk_worker.audit import known_loss
    from risk_worker.recovery.repair import operator

    done = known_loss.undo(settings().require_database_url(), number, reason=reason, by=operator())
    click.echo(f"Recorded as {done}: known loss {number} does not hold any more")


@verify.command()
@click.option("--trader", help="Only one trader.")
def known(trader: str | None) -> None:
    """List what was recorded about losses, undone entries too: who, when and why."""
    from risk_worker.audit import known_loss

    lines = list(known_loss.every_entry(settings().require_database_url(), trader))
    echo_pieces(["\n".join(lines) if lines else "No loss was accepted."])
