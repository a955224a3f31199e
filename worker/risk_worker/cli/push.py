"""push."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from risk_worker.cli.options import settings


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-")
@click.option("--dry-run", is_flag=True, help="Only check the lines; send nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "jsonl", "csv"]),
    default="auto",
    show_default=True,
    help="auto: by the file's ending, else by its first character.",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Give up instead: at the first line that finds no room within RISK_SAVE_TIMEOUT_S, and on what is "
    "not in Redis 2 s after the last line.",
)
@click.option(
    "--recorded-at",
    type=click.Choice(["now"]),
    help="A record without recorded_at is of the time at which it is read. Else it is bad.",
)
@click.option(
    "--trading-paused",
    type=click.Choice(["false", "true"]),
    help="What a record without trading_paused means. Else it is bad.",
)
def push(
    file: Path, dry_run: bool, form: str, no_wait: bool, recorded_at: str | None, trading_paused: str | None
) -> None:
    """Push snapshots from FILE (or - for standard input): JSON lines, or CSV with a header row.

    When the stream is full, and while Redis is away or cannot be used, it waits without end; Ctrl-C gives up.
    A line that is no snapshot is reported with its number, the others go through, and the exit status is 1.
    Of a CSV file whose quotes are broken nothing is used.
    """
    from risk_worker.ingest import push as module
    from risk_worker.ingest.records import Defaults

    defaults = Defaults(
        recorded_now=recorded_at == "now",
        trading_paused=None if trading_paused is None else trading_paused == "true",
    )
    sys.exit(
        module.push(settings("trader"), file, dry_run=dry_run, form=form, wait=not no_wait, defaults=defaults)
    )
