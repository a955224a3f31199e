"""`riskstream traders`: to which namespace each trader belongs, and the change of it.

Postgres decides, in the row that each transaction locks which stores something of the trader. Redis follows:
the former namespace forgets the trader's state, so that load() does not find it there any more, and the
workers compare the new one with Postgres again, so that it has the state and the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from risk_producer.contract.keys import NAMESPACE, PARTITIONS_MAX, Keyspace
from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError, RiskError
from risk_producer.settings import Settings
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_producer.transport.servers import Question, ask
from risk_worker.database.reader import connected

_SQL: Final = statements(__package__, "assignment.sql")
_PAGE: Final = 1_000


class NotAssigned(RiskError):
    """Traders were not given to a namespace, or Redis did not follow; the message says how far it came."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which traders: those that are named, or all that belong to a namespace."""

    traders: Sequence[str] | None = None
    of: str | None = None
    """Where none are named; None: those that belong to no namespace."""


def counts(url: str) -> list[tuple[str | None, int]]:
    """(namespace, how many traders belong to it); None: to none. Raises DatabaseUnavailable."""
    with connected(url) as connection:
        return connection.execute(_SQL["counts"]).fetchall()


def assign(settings: Settings, namespace: str, chosen: Chosen) -> int:
    """Let traders belong to a namespace. May be repeated, also after it failed half-way. Returns how many.

    Raises NotAssigned, DatabaseUnavailable, ConfigurationError.
    """
    if not re.search(NAMESPACE, namespace):
        raise ConfigurationError(f"a namespace has 1 to 64 of a-z, A-Z, 0-9, - _ and ., got {namespace!r}")
    redis_url = settings.require_redis_url()
    named = None if chosen.traders is None else list(chosen.traders)
    with connected(settings.require_database_url()) as connection, connection.transaction():
        asked = {"traders": named, "from": chosen.of}
        found: dict[str, str | None] = dict(connection.execute(_SQL["chosen"], asked).fetchall())
        if unknown := [each for each in named or () if each not in found]:
            raise NotAssigned(f"Postgres knows no snapshot of {', '.join(map(repr, unknown))}")
        connection.execute(_SQL["assign"], {"to": namespace, "traders": list(found)})
    former: dict[str, list[str]] = {}
    for trader_id, before in found.items():
        if before not in (None, namespace):
            former.setdefault(before, []).append(trader_id)
    try:
        with redis_client(redis_url, answer_timeout_s=30, connect_timeout_s=5) as client:
            for before, traders in former.items():
                _forget_states(client, Keyspace(before), traders)
            compare_again(client, Keyspace(namespace))
    except REDIS_ERRORS as error:
        raise NotAssigned(
            f"{len(found):,} traders belong to {namespace} now, and Redis did not follow ({error}): run the "
            "command again for them"
        ) from error
    return len(found)


def compare_again(client: RedisClient, keyspace: Keyspace) -> None:
    """Have the workers compare Redis with Postgres again: it may hold nothing of new traders.

    Raises one of REDIS_ERRORS where no server answers.
    """
    floors = [keyspace.keys(number).floors for number in keyspace.numbers(PARTITIONS_MAX)]
    ask(client, [(key, ("HDEL", key, "")) for key in floors])


def _forget_states(client: RedisClient, keyspace: Keyspace, traders: Sequence[str]) -> None:
    for first in range(0, len(traders), _PAGE):
        page = traders[first : first + _PAGE]
        questions: list[Question] = []
        for partition in range(PARTITIONS_MAX):
            latest = keyspace.keys(partition).latest
            questions.append((latest, ("HDEL", latest, *page)))
        ask(client, questions)
