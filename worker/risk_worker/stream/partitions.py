"""Unserved partitions: those beyond RISK_PARTITIONS, which no worker drains.

A trader whose RISK_PARTITIONS is greater puts snapshots there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from risk_producer.contract.keys import NO_NAMESPACE, PARTITIONS_MAX, Keyspace
from risk_producer.transport.connect import RedisClient
from risk_producer.transport.servers import ask

log = logging.getLogger("riskstream.partitions")

_SHOWN: Final = 10


def unserved(client: RedisClient, partitions: int, keyspace: Keyspace = NO_NAMESPACE) -> dict[int, int]:
    """partition -> entries that wait in it. Raises one of REDIS_ERRORS."""
    beyond = range(partitions, PARTITIONS_MAX)
    streams = [keyspace.keys(partition).snapshots for partition in beyond]
    lengths = ask(client, [(stream, ("XLEN", stream)) for stream in streams])
    found = zip(beyond, lengths, strict=True)
    return {partition: length for partition, length in found if isinstance(length, int) and length}


def describe(waiting: Mapping[int, int], partitions: int) -> str:
    """What unserved() found, and what to do, for a person."""
    shown = [f"{count:,} in partition {partition}" for partition, count in sorted(waiting.items())]
    if len(shown) > _SHOWN:
        shown[_SHOWN:] = [f"and more in {len(shown) - _SHOWN} others"]
    return (
        f"Snapshots wait where no worker looks that has RISK_PARTITIONS={partitions}: {', '.join(shown)}. "
        "Give all traders and workers the same RISK_PARTITIONS"
    )


class Watch:
    """Logs once, and not with every look, in which unserved partitions snapshots wait."""

    def __init__(self) -> None:
        self._logged: set[int] = set()

    def look(self, client: RedisClient, partitions: int, keyspace: Keyspace = NO_NAMESPACE) -> None:
        """Log what is new. Raises one of REDIS_ERRORS."""
        waiting = unserved(client, partitions, keyspace)
        if waiting.keys() - self._logged:
            log.error("%s.", describe(waiting, partitions))
        self._logged = set(waiting)
