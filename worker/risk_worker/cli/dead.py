"""dead list, show, retry, drop, dropped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from risk_worker.cli.options import EXIT_BAD, Age, echo_pieces, settings

if TYPE_CHECKING:
    from risk_worker.dead_letters.select import DeadLetterFilter, DeadLetterRow


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    """The options that select dead letters."""
    for option in (
        click.option("--newer-than", type=Age(), help="Inserted less than this long ago, like 1h."),
        click.option("--older-than", type=Age(), help="Inserted longer ago than this, like 1h or 7d."),
        click.option("--reason", help="Those with this text in their reason."),
        click.option("--trader", help="Those of one trader."),
    ):
        command = option(command)
    return command


def _filters_or_name(command: Callable[..., None]) -> Callable[..., None]:
    """The filters, or the one dead letter that the arguments STREAM and ENTRY_ID name."""
    command = click.argument("entry_id", required=False)(command)
    return click.argument("stream", required=False)(_filters(command))


def _selected(
    trader: str | None,
    reason: str | None,
    older_than: timedelta | None,
    newer_than: timedelta | None,
    stream: str | None = None,
    entry_id: str | None = None,
) -> DeadLetterFilter:
    from risk_worker.dead_letters.select import DeadLetterFilter

    if stream is not None and entry_id is None:
        raise click.UsageError(
            "One dead letter is named by two arguments: STREAM ENTRY_ID, as the list shows them."
        )
    return DeadLetterFilter(stream, entry_id, trader, reason, older_than, newer_than)


@click.group()
def dead() -> None:
    """Look at dead letters, which could not be stored; store them again, or drop them."""


@dead.command("list")
@_filters
@click.option("--limit", default=100, show_default=True, type=click.IntRange(0), help="0: all of them.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array, with the original bytes.")
def dead_list(limit: int, as_json: bool, **filters: Any) -> None:
    """List dead letters, the oldest first: stream, entry id, since when, trader/epoch/seq, reason."""
    from risk_worker.dead_letters import render, select

    url, which = settings().require_database_url(), _selected(**filters)
    rows = select.rows(url, which, limit=limit or None)
    if as_json:
        echo_pieces(render.as_json(rows))
        return
    shown = 0
    for row in rows:
        click.echo(render.one_line(row))
        shown += 1
    count = select.count(url, which)[0] if shown == limit else shown
    click.echo(f"{count:,} dead letters" + (f", {shown:,} shown" if count > shown else ""), err=True)


@dead.command("show")
@click.argument("stream")
@click.argument("entry_id")
@click.option("--json", "as_json", is_flag=True)
def dead_show(stream: str, entry_id: str, as_json: bool) -> None:
    """Show one dead letter with its payload."""
    from risk_worker.dead_letters import render, select

    which = select.DeadLetterFilter(stream, entry_id)
    found = list(select.rows(settings().require_database_url(), which))
    _fail_if_missing(len(found), which)
    echo_pieces(render.as_json(found) if as_json else [render.in_full(found[0])])


@dead.command("retry")
@_filters_or_name
@click.option("--dry-run", is_flag=True, help="Only print what would change.")
def dead_retry(dry_run: bool, **filters: Any) -> None:
    """Store what can be stored by now: one dead letter (STREAM ENTRY_ID), those of the filters, or all.

    It is stored as the worker stores it: history is filled, the state never goes back. What still cannot be
    stored stays dead with its new reason, and the exit status is 1.
    """
    from risk_worker.dead_letters.retry import plan, retry

    chosen, which = settings(), _selected(**filters)
    url = chosen.require_database_url()
    if dry_run:
        count = tries = 0
        for row, outcome, would_try in plan(url, which):
            click.echo(f"{row.stream} {row.entry_id}  {outcome}")
            count += 1
            tries += would_try
        click.echo(f"{count:,} dead letters, {tries:,} would be tried; nothing was changed", err=True)
        _fail_if_missing(count, which)
        return

    def show(row: DeadLetterRow, reason: str | None) -> None:
        click.echo(f"{row.stream} {row.entry_id}  {f'still dead: {reason}' if reason else 'stored'}")

    result = retry(url, which, on_result=show, assigns_traders=chosen.assigns_traders)
    already = f" ({result.duplicates:,} of them were stored before)" if result.duplicates else ""
    click.echo(f"{result.stored:,} stored{already}, {result.still_dead:,} still dead", err=True)
    _fail_if_missing(result.stored + result.still_dead, which)
    if result.still_dead:
        sys.exit(EXIT_BAD)


@dead.command("drop")
@_filters_or_name
@click.option("--all", "everything", is_flag=True, help="Needed where no filter is given.")
@click.option("--dry-run", is_flag=True, help="Only print what would be dropped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def dead_drop(everything: bool, dry_run: bool, yes: bool, **filters: Any) -> None:
    """Delete dead letters for good: one (STREAM ENTRY_ID), those of the filters, or --all.

    An entry of the chain of seals names each of them, who dropped it, and the SHA-256 of its bytes. So
    `riskstream verify` counts the snapshots that they stood for as dropped, not as lost.
    """
    from risk_worker.dead_letters import drop, render, select
    from risk_worker.recovery.repair import operator
    from risk_worker.seal.render import head_line

    url, which = settings().require_database_url(), _selected(**filters)
    if which.is_empty and not everything:
        raise click.UsageError("Select dead letters by STREAM ENTRY_ID or by a filter, or give --all.")
    if dry_run:
        count = 0
        for row in select.rows(url, which):
            click.echo(render.one_line(row))
            count += 1
        click.echo(f"{count:,} dead letters would be dropped; nothing was changed", err=True)
    else:
        count, seen = select.count(url, which)
        if count and not yes:
            click.confirm(f"Drop {count:,} dead letters for good?", abort=True, err=True)
        entry = drop.drop(url, seen, by=operator()) if count else None
        count = 0 if entry is None else entry.leaves
        click.echo(f"{count:,} dead letters dropped", err=True)
        if entry is not None:
            click.echo(head_line(entry))
    _fail_if_missing(count, which)


@dead.command("dropped")
@click.option("--trader", help="Those of one trader.")
def dead_dropped(trader: str | None) -> None:
    """List what was dropped, in the order of the entries of the chain of seals that name it.

    A line has the number of the entry, when, by whom, stream and entry id, trader/epoch/seq, the SHA-256 of
    the bytes, and why it could not be stored.
    """
    from risk_worker.seal.drops import dropped
    from risk_worker.seal.render import drop_line

    found = dropped(settings().require_database_url(), trader=trader)
    for each in found:
        click.echo(drop_line(each))
    click.echo(f"{len(found):,} dead letters were dropped", err=True)


def _fail_if_missing(count: int, which: DeadLetterFilter) -> None:
    """One dead letter that was asked for by name should be there."""
    if count == 0 and which.entry_id is not None:
        click.echo(f"riskstream: there is no dead letter {which.stream} {which.entry_id}", err=True)
        sys.exit(EXIT_BAD)
