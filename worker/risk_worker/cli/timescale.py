"""timescale status, enable, policies."""

from __future__ import annotations

import sys

import click

from risk_worker.cli.options import EXIT_BAD, echo_pieces, settings


@click.group()
def timescale() -> None:
    """Let TimescaleDB compress history and sum it up; and look how history is kept."""


@timescale.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(as_json: bool) -> None:
    """Show how history is kept, and what is not as the settings say. It works on a plain table too.

    Exit status 1: something should be done, and the line says what.
    """
    from risk_worker.timescale import render
    from risk_worker.timescale import status as module

    chosen = settings()
    found = module.read(chosen.require_database_url(), chosen)
    echo_pieces([render.as_json(found) if as_json else render.as_text(found)])
    sys.exit(EXIT_BAD if found.findings else 0)


@timescale.command()
def enable() -> None:
    """Turn on what TimescaleDB has for history: hypertable, columnstore, continuous aggregates, policies.

    The command may be repeated. Where history is a plain table yet, it moves the rows, and workers wait
    meanwhile.
    """
    from risk_worker.timescale import enable as module

    chosen = settings()
    for line in module.enable(chosen.require_database_url(), chosen):
        click.echo(line)


@timescale.command()
def policies() -> None:
    """Make TimescaleDB's policies what RISK_COMPRESS_AFTER says.

    The command may be repeated. It adds no retention policy of TimescaleDB, which would remove what is not
    sealed.
    """
    from risk_worker.timescale import policies as module

    chosen = settings()
    for line in module.apply(chosen.require_database_url(), chosen):
        click.echo(line)
