"""grants."""

from __future__ import annotations

import click

from risk_worker.cli.options import settings


@click.command()
@click.option("--apply", "applies", is_flag=True, help="Run them on the database instead of printing them.")
@click.option(
    "--prefix",
    default="risk",
    show_default=True,
    help="What the names of the roles begin with, before _owner and others.",
)
def grants(applies: bool, prefix: str) -> None:
    """Print the SQL, for psql, that makes the roles in Postgres and gives each what it needs, and no more.

    It may be repeated, and has to be after each migration. Roles are the server's: deployments that share
    one need a prefix each.
    """
    from risk_worker.database import grants as module

    if not applies:
        click.echo("\\connect\n\n".join(module.scripts(prefix)), nl=False)
        return
    module.apply(settings().require_database_url(), prefix)
    names = ", ".join(f"{prefix}_{each}" for each in ("owner", *module.GROUPS))
    click.echo(f"The roles {names} have what they need, and no more")
