"""rebind."""

from __future__ import annotations

import sys

import click

from risk_worker.cli.options import EXIT_BAD, settings


@click.command()
@click.option("--new-identity", is_flag=True, help="Give the database another identity first: it is a copy.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rebind(new_identity: bool, yes: bool) -> None:
    """Decide that the streams are stored in this database from now on, after a restore of one of the two.

    It shows whose the streams are and which database this is, and asks. Each change is recorded in the stream
    risk:{p}:repairs: who, when, and what was there before. Exit status 1: it was not confirmed.
    """
    from risk_worker.recovery import rebind as module

    with module.opened(settings()) as both:
        for line in both.describe():
            click.echo(line)
        if not new_identity and not both.changes():
            click.echo("They are of one deployment; nothing to change.", err=True)
            return
        if new_identity:
            click.echo("The database gets another identity, which is written beside these streams.")
        if not yes and not click.confirm("Store these streams in this database from now on?", err=True):
            sys.exit(EXIT_BAD)
        if new_identity:
            both.renew()
        for line in both.apply():
            click.echo(line)
