"""What all peers have in common."""

from __future__ import annotations

import os
from typing import Final

from psycopg_pool import ConnectionPool

BATCH: Final = int(os.environ.get("PEER_BATCH", "5000"))
"""Snapshots of a transaction at most, where there are batches: RISK_BATCH_SIZE of the worker beside them."""
LINGER_S: Final = 0.5
"""How long a batch that is not full waits for more, where that can be set."""
RECOVER_AFTER_S: Final = 10
"""When what a worker that died had in hand is given to another, where that is a matter of time.

The defaults are 10 minutes (taskiq) and an hour (Celery): what takes longer is delivered twice.
"""


def one_connection(postgres_url: str) -> ConnectionPool:
    """To Postgres, made anew where it was lost."""
    return ConnectionPool(
        postgres_url,
        min_size=1,
        max_size=1,
        kwargs={"autocommit": True},
        check=ConnectionPool.check_connection,
        open=True,
    )
