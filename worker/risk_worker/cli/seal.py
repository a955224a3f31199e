"""seal run, verify, head, show, reopen."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TextIO

import click

from risk_worker.cli.options import EXIT_BAD, Moment, echo_pieces, progress_on_stderr, settings

NO_SEALS = "nothing is sealed yet; a worker seals each hour a minute after its end (RISK_SEAL_EVERY)"


@click.group()
def seal() -> None:
    """Seal history, so that a change, removal or addition shows; and look whether there was one."""


@seal.command()
@click.option(
    "--every", type=click.Choice(["10m", "1h", "6h", "1d"]), help="Default: RISK_SEAL_EVERY, else 1h."
)
def run(every: str | None) -> None:
    """Seal what is over, as the workers do; print the head of each run."""
    from risk_worker.seal.render import head_line
    from risk_worker.seal.sealer import WINDOWS, Sealer

    loaded = settings()
    window = WINDOWS[every or (loaded.seal_every if loaded.seal_every != "off" else "1h")]
    with Sealer(loaded.require_database_url(), window) as sealer:
        for made in sealer.seal():
            click.echo(head_line(made))


@seal.command()
@click.option(
    "--deep", is_flag=True, help="Make the seals again from the rows; else the seals alone are read."
)
@click.option(
    "--since",
    type=Moment(),
    help="Begin with the run of what was stored at this time (2026-01-31), or this long ago (90d).",
)
@click.option("--trader", help="Read the rows of one trader alone.")
@click.option(
    "--heads",
    type=click.File("r"),
    help="Lines of `riskstream seal head` kept elsewhere, which have to be in the chain. -: from stdin.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what was read, and what was found.")
def verify(
    deep: bool, since: timedelta | datetime | None, trader: str | None, heads: TextIO | None, as_json: bool
) -> None:
    """Verify that nothing was changed, removed or added since it was sealed.

    An administrator who can rewrite the whole database can also make all seals anew, or remove the last: only
    a head that was kept elsewhere shows that. Exit status 0: as it was sealed. 1: something is not, and it is
    named; or nothing is sealed, or the trader is unknown. 2: nothing is known, because Postgres did not
    answer.
    """
    from risk_worker.seal import render
    from risk_worker.seal import verify as module

    kept = module.read_heads(heads.readlines()) if heads is not None else []
    moment = datetime.now(UTC) - since if isinstance(since, timedelta) else since
    url = settings().require_database_url()
    report = module.verify(
        url,
        deep=deep,
        since=moment,
        trader=trader,
        heads=kept,
        progress=progress_on_stderr() if deep else None,
    )
    if trader is not None and report.intact and not module.is_known(url, trader):
        click.echo(f"riskstream: nothing is sealed or stored of a trader {trader!r}", err=True)
        sys.exit(EXIT_BAD)
    echo_pieces([render.as_json(report) if as_json else render.as_text(report)])
    sys.exit(0 if report.intact and not report.proves_nothing else EXIT_BAD)


@seal.command()
def head() -> None:
    """Print number, head and end of the last run: a line to be kept elsewhere, for verify --heads."""
    from risk_worker.seal.render import head_line
    from risk_worker.seal.verify import last_run

    found = last_run(settings().require_database_url())
    if found is None:
        click.echo(f"riskstream: {NO_SEALS}", err=True)
        sys.exit(EXIT_BAD)
    click.echo(head_line(found))


@seal.command()
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
@click.option("--trader", help="The leaves, or dropped dead letters, of one trader alone.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all leaves.")
def show(number: int, trader: str | None, as_json: bool) -> None:
    """Show a run, and its leaves: what it has of each trader, epoch and day; or another entry."""
    from risk_worker.seal import render
    from risk_worker.seal.drops import dropped
    from risk_worker.seal.verify import run_with_leaves

    url = settings().require_database_url()
    found = run_with_leaves(url, number, trader)
    if found is None:
        click.echo(f"riskstream: there is no run {number}", err=True)
        sys.exit(EXIT_BAD)
    drops = dropped(url, number=number, trader=trader)
    echo_pieces([render.run_as_json(*found, drops) if as_json else render.run_as_text(*found, drops)])


@seal.command()
def reopen() -> None:
    """Undo what a clock that ran ahead has closed and sealed, once it is right again.

    It is for when nothing can be stored because history is closed until a time to come. Runs that end later
    than now are undone by an entry of the chain, which seal verify shows from then on; their rows stay, and
    are verified.
    """
    from risk_worker.seal.chain import show_time
    from risk_worker.seal.render import head_line
    from risk_worker.seal.sealer import WINDOWS, Sealer

    with Sealer(settings().require_database_url(), WINDOWS["1h"]) as sealer:
        done = sealer.reopen()
    if done.entry is not None:
        click.echo(head_line(done.entry))
    until = done.closed_until
    click.echo("History is open" if until is None else f"History is closed until {show_time(until)}")
