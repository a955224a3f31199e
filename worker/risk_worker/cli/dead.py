"""dead list, show, retry, drop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from risk_worker.cli.options import Age, echo_pieces, settings

if TYPE_CHECKING:
    from risk_worker.dead_letters.dead import DeadLetters, Letter, Wanted


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose dead letters."""
    for option in (
        click.option("--newer-than", type=Age(), help="Put there less than this long ago, like 1h."),
        click.option("--older-than", type=Age(), help="Put there longer ago than this, like 1h or 7d."),
        click.option("--reason", help="Those with this text in their reason."),
        click.option("--trader", help="Those of one trader."),
    ):
        command = option(command)
    return command


def _named(command: Callable[..., None]) -> Callable[..., None]:
    """The filters, or the one letter that the arguments STREAM and ENTRY_ID name."""
    command = click.argument("entry_id", required=False)(command)
    return click.argument("stream", required=False)(_filters(command))


def _wanted(
    trader: str | None,
    reason: str | None,
    older_than: timedelta | None,
    newer_than: timedelta | None,
    stream: str | None = None,
    entry_id: str | None = None,
) -> Wanted:
    from risk_worker.dead_letters.dead import Wanted

    if stream is not None and entry_id is None:
        raise click.UsageError(
            "One letter is named by two arguments: STREAM ENTRY_ID, as the list shows them."
        )
    return Wanted(stream, entry_id, trader, reason, older_than, newer_than)


def _dead_letters() -> DeadLetters:
    from risk_worker.dead_letters.dead import DeadLetters

    return DeadLetters(settings().require_database_url())


@click.group()
def dead() -> None:
    """Look at what could not be stored, try it again, or drop it."""


@dead.command("list")
@_filters
@click.option("--limit", default=100, show_default=True, type=click.IntRange(0), help="0: all of them.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array, with the original bytes.")
def dead_list(limit: int, as_json: bool, **filters: Any) -> None:
    """List dead letters, the oldest first: stream, entry id, since when, trader/epoch/seq, reason."""
    from risk_worker.dead_letters import dead as module

    letters, wanted = _dead_letters(), _wanted(**filters)
    if as_json:
        echo_pieces(module.as_json(letters.letters(wanted, limit=limit or None)))
        return
    shown = 0
    for letter in letters.letters(wanted, limit=limit or None):
        click.echo(module.one_line(letter))
        shown += 1
    count = letters.count(wanted)[0] if shown == limit else shown
    click.echo(f"{count:,} dead letters" + (f", {shown:,} shown" if count > shown else ""), err=True)


@dead.command("show")
@click.argument("stream")
@click.argument("entry_id")
@click.option("--json", "as_json", is_flag=True)
def dead_show(stream: str, entry_id: str, as_json: bool) -> None:
    """Show one dead letter with its payload."""
    from risk_worker.dead_letters import dead as module

    found = list(_dead_letters().letters(module.Wanted(stream, entry_id)))
    if not found:
        click.echo(f"riskstream: there is no dead letter {stream} {entry_id}", err=True)
        sys.exit(1)
    echo_pieces(module.as_json(found) if as_json else [module.in_full(found[0])])


@dead.command("retry")
@_named
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
def dead_retry(dry_run: bool, **filters: Any) -> None:
    """Store what can be stored by now: one letter (STREAM ENTRY_ID), those of the filters, or all.

    The way is that of the worker: history is filled, the state never goes back. What still cannot be stored
    stays dead with its new reason, and the exit status is 1.
    """
    letters, wanted = _dead_letters(), _wanted(**filters)
    if dry_run:
        count = tries = 0
        for letter, outlook, would_try in letters.foresee(wanted):
            click.echo(f"{letter.stream} {letter.entry_id}  {outlook}")
            count += 1
            tries += would_try
        click.echo(f"{count:,} dead letters, {tries:,} would be tried; nothing was changed", err=True)
        _none_found(count, wanted)
        return

    def say(letter: Letter, why_not: str | None) -> None:
        click.echo(f"{letter.stream} {letter.entry_id}  {f'still dead: {why_not}' if why_not else 'stored'}")

    retried = letters.retry(wanted, said=say)
    already = f" ({retried.duplicates:,} of them had been before)" if retried.duplicates else ""
    click.echo(f"{retried.stored:,} stored{already}, {retried.still_dead:,} still dead", err=True)
    _none_found(retried.stored + retried.still_dead, wanted)
    if retried.still_dead:
        sys.exit(1)


@dead.command("drop")
@_named
@click.option("--all", "everything", is_flag=True, help="Needed where no filter is given.")
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def dead_drop(everything: bool, dry_run: bool, yes: bool, **filters: Any) -> None:
    """Delete dead letters for good: one (STREAM ENTRY_ID), those of the filters, or --all.

    A snapshot that is dropped is a hole in history from then on, and `riskstream verify` names it.
    """
    from risk_worker.dead_letters import dead as module

    letters, wanted = _dead_letters(), _wanted(**filters)
    if wanted.everything and not everything:
        raise click.UsageError("Say which: STREAM ENTRY_ID, a filter, or --all.")
    if dry_run:
        count = 0
        for letter in letters.letters(wanted):
            click.echo(module.one_line(letter))
            count += 1
        click.echo(f"{count:,} dead letters would be dropped; nothing was changed", err=True)
    else:
        count, seen = letters.count(wanted)
        if count and not yes:
            click.confirm(f"Drop {count:,} dead letters for good?", abort=True, err=True)
        count = letters.drop(seen) if count else 0
        click.echo(f"{count:,} dead letters dropped", err=True)
    _none_found(count, wanted)


def _none_found(count: int, wanted: Wanted) -> None:
    """One letter that was asked for by name should be there."""
    if count == 0 and wanted.entry_id is not None:
        click.echo(f"riskstream: there is no dead letter {wanted.stream} {wanted.entry_id}", err=True)
        sys.exit(1)
