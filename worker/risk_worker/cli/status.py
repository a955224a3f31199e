"""status and tail: how everything is, and what arrives."""

from __future__ import annotations

import sys

import click

from risk_worker.cli.options import EXIT_BAD, settings


@click.command()
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with ok and problems.")
def status(watch: bool, as_json: bool) -> None:
    """Show how everything is: partitions, workers, Redis, Postgres, traders; what is wrong, and what to do.

    It takes about a second, and three at the most, whichever server does not answer. Exit status 0: no
    problem. 1: there is one. 2: a setting is missing or wrong.
    """
    from risk_worker.status import look, screen
    from risk_worker.status.problems import is_well

    chosen = settings()
    if watch:
        screen.watch(chosen, json=as_json)
    found = look.look(chosen)
    screen.show(found, json=as_json)
    sys.exit(0 if is_well(found) else EXIT_BAD)


@click.command()
@click.argument("trader", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def tail(trader: str | None, as_json: bool) -> None:
    """Follow snapshots as they arrive in Redis, those of one TRADER or all, until Ctrl-C.

    Nothing is consumed, and no worker waits. A snapshot that is stored and gone before it can be shown is
    missed: where that happens, a line on stderr says how many of that trader were.
    """
    from risk_worker.status import tail as module

    module.tail(settings(), trader, json=as_json, out=sys.stdout, err=sys.stderr)
