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
def dashboard(host: str, port: int) -> None:
    """Serve rq-dashboard: the queue, the workers, the running drain jobs."""
    from risk_worker.runtime import dashboard as module

    module.serve(settings_and_log(), host=host, port=port)
