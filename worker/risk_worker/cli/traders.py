"""traders: to which namespace each belongs."""

from __future__ import annotations

import click

from risk_worker.cli.options import settings


@click.group(invoke_without_command=True)
@click.pass_context
def traders(context: click.Context) -> None:
    """Show how many traders belong to each namespace, where desks share a database (RISK_NAMESPACES)."""
    if context.invoked_subcommand is not None:
        return
    from risk_worker.recovery import assignment

    for namespace, count in assignment.counts(settings().require_database_url()):
        click.echo(f"{'(none)' if namespace is None else namespace:<24}{count:>12,} traders")


@traders.command()
@click.argument("namespace")
@click.argument("names", metavar="[TRADER]...", nargs=-1)
@click.option("--of", "former", metavar="NAMESPACE", help="All traders of another namespace.")
@click.option("--unassigned", is_flag=True, help="All traders that belong to no namespace.")
def assign(namespace: str, names: tuple[str, ...], former: str | None, unassigned: bool) -> None:
    """Let traders belong to NAMESPACE from now on: only it may report them, and only there load() finds them.

    Stop them first, and let the workers store what waits: what comes by their former namespace after this is
    refused.
    """
    if bool(names) + (former is not None) + unassigned != 1:
        raise click.UsageError("Name traders, or give one of --of and --unassigned.")
    from risk_worker.recovery import assignment

    chosen = assignment.Chosen(names or None, former)
    count = assignment.assign(settings(), namespace, chosen)
    click.echo(f"{count:,} traders belong to {namespace}")
