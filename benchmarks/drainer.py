"""A worker's drain of a share of the partitions on command: python -m benchmarks.drainer NUMBER...

As risk_worker/runtime/jobs.py has it, without RQ around it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from threading import Event
from urllib.parse import urlsplit

from benchmarks.network import exchanged
from benchmarks.process import serve
from risk_producer.settings import Settings
from risk_worker.database.stores import PostgresStores
from risk_worker.drain.loop import drain
from risk_worker.stream.source import StreamSource, connect


def main(partitions: Sequence[int]) -> None:
    """Obey until stdin ends. The connections stay, and each drain is a time slice of its own."""
    logging.basicConfig(level=logging.ERROR)
    settings = Settings.load()
    client = connect(settings.require_redis_url())
    url = settings.require_database_url()
    with client, PostgresStores(url, assigns_traders=settings.assigns_traders) as store:

        def work(_rows: int) -> int:
            source = StreamSource(
                client,
                partitions,
                batch_size=settings.batch_size,
                interval_s=settings.flush_interval_ms / 1000,
                block_s=0.01,  # so that waiting for more at the end is not in the measure
                keyspace=settings.keyspace,
            )
            return drain(source, store, stop=Event(), over=source.is_empty)

        serve(work, partial(exchanged, urlsplit(url).port))


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]])
