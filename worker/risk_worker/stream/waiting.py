"""How many accepted snapshots wait in Redis, for those who ask what is stored."""

from __future__ import annotations

from typing import Final

from risk_producer.errors import RiskError
from risk_producer.settings import Settings
from risk_producer.transport.connect import REDIS_ERRORS, redis_client
from risk_worker.stream.partitions import look_at_all

_ANSWER_S: Final = 1.0
"""The answer of Postgres waits for it."""


class WaitingUnknown(RiskError):
    """How many snapshots wait in Redis cannot be found out; the message says why."""


def waiting(settings: Settings) -> int:
    """Accepted snapshots in all streams, those in workers' hands included.

    Raises WaitingUnknown, and ConfigurationError where REDIS_URL cannot be used.
    """
    if settings.redis_url is None:
        raise WaitingUnknown("REDIS_URL is not set")
    try:
        with redis_client(
            settings.redis_url, answer_timeout_s=_ANSWER_S, connect_timeout_s=_ANSWER_S
        ) as client:
            seen = look_at_all(client, settings.keyspace, settings.partitions)
    except REDIS_ERRORS as error:
        raise WaitingUnknown(f"Redis does not answer ({error})") from error
    if seen.away:
        first, last = (settings.keyspace.name(number) for number in (min(seen.away), max(seen.away)))
        raise WaitingUnknown(f"partitions {first} to {last} of the Redis Cluster do not answer")
    return sum(seen.entries.values())
