"""config, and what runs until it is stopped: worker, exporter, dashboard."""

from __future__ import annotations

import os

import click

from risk_worker.cli.options import settings, settings_and_log


@click.command()
def config() -> None:
    """Print the settings in force, secrets masked; behind # the file that one comes from."""
    from risk_producer.settings.declare import ENVIRONMENT

    chosen = settings()
    origins = chosen.origins(os.environ)
    for variable, value in chosen.shown().items():
        origin = origins.get(variable, ENVIRONMENT)
        click.echo(f"{variable}={value}{'' if origin == ENVIRONMENT else f'  # {origin}'}")


@click.command()
@click.option("--burst", is_flag=True, help="Drain what is there, then leave.")
def worker(burst: bool) -> None:
    """Wait for Redis and Postgres, migrate, then drain the stream until stopped."""
    from risk_worker.runtime import rq_prefix

    chosen = settings_and_log("worker")
    rq_prefix.agree(chosen.keyspace)  # before RQ is imported
    from risk_worker.runtime import worker as rq_worker

    rq_worker.run(chosen, burst=burst)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9400, show_default=True, type=click.IntRange(0, 65535))
def exporter(host: str, port: int) -> None:
    """Serve /metrics for Prometheus."""
    from risk_worker.monitor import exporter as module

    module.serve(settings_and_log(), host=host, port=port)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9181, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Another name that browsers may use for it, as that of a proxy; may be repeated.",
)
@click.option(
    "--allow-actions", is_flag=True, help="Let it requeue and delete jobs of RQ; needs a login to be set."
)
def dashboard(host: str, port: int, allowed_hosts: tuple[str, ...], allow_actions: bool) -> None:
    """Serve rq-dashboard: the queue, the workers, the running drain jobs.

    It only shows them, unless --allow-actions. It asks for a login where RQ_DASHBOARD_USERNAME and
    RQ_DASHBOARD_PASSWORD are set.
    """
    from risk_worker.runtime import dashboard as module

    module.serve(
        settings_and_log(), host=host, port=port, allowed_hosts=allowed_hosts, allow_actions=allow_actions
    )
