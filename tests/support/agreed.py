"""What is agreed on about the number of partitions, as the first worker of a deployment has it stored."""

from __future__ import annotations

import psycopg


def agreed_on(database_url: str, partitions: int = 1, *others: int, version: int = 1) -> None:
    """Postgres knows the number, and other ones, from now on."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE risk_deployment"
            " SET partitioning_version = %s, partitions = %s, other_partitions = %s::smallint[]",
            (version, partitions, list(others)),
        )
