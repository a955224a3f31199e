"""What is agreed on about the number of partitions, kept the same in Redis and Postgres; and how it changes.

Redis has a copy in each partition (see risk_producer/contract/partitioning.py), Postgres one row. Where they
differ, the greater version counts, and the numbers of the other are looked at too: so a Redis that lost its
data gets back what was agreed on, and one that was there before Postgres' row fills that.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import psycopg

from risk_producer.contract.keys import Keys, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.scripts import script
from risk_producer.contract.statements import statements
from risk_producer.errors import RiskError
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_producer.transport.servers import ask
from risk_worker.database import connection as database
from risk_worker.stream import partitions
from risk_worker.stream.partitions import InUse

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("riskstream.partitioning")

_SQL: Final = statements(__package__, "partitioning.sql")
_ANNOUNCE: Final = script(__package__, "announce")


class NotChanged(RiskError):
    """The number of partitions could not be changed; the message says how far it came."""


def stored(connection: psycopg.Connection) -> Partitioning | None:
    """What Postgres has; None: nothing is agreed on."""
    return _of_row(connection.execute(_SQL["stored"]).fetchone())


def agree(client: RedisClient, database_url: str, keyspace: Keyspace, wish: int) -> Partitioning:
    """Make what Redis and Postgres know the same; where neither knows anything, the wish is agreed on.

    Raises one of REDIS_ERRORS or psycopg.Error.
    """
    seen = partitions.look(client, keyspace, wish)
    with database.connect(database_url, database.STORE) as connection:
        found = _settle(connection, seen.agreed, Partitioning.wished(wish).first())
    announce(client, keyspace, found, seen)
    return found


def change(client: RedisClient, database_url: str, keyspace: Keyspace, wish: int, number: int) -> Partitioning:
    """Change the number of partitions while everything runs. May be repeated, also after it failed half-way.

    First all partitions learn that traders may be divided by the new number too, so that load() looks there
    and workers drain there; only then is it in force, and producers follow. Postgres is always told first.
    Raises NotChanged, or psycopg.Error.
    """
    before = _announced_everywhere(client, database_url, keyspace, wish, number)
    if before.partitions == number:
        return before
    with database.connect(database_url, database.STORE) as connection:
        found = _settle(connection, before.changed(number), before)
    _everywhere(client, keyspace, found)
    return found


def announce(client: RedisClient, keyspace: Keyspace, found: Partitioning, seen: InUse) -> None:
    """Write the copies that differ. Raises one of REDIS_ERRORS where no server answers."""
    places = {*range(found.width), *seen.copies}
    _write(client, found, (keyspace.keys(each) for each in places if seen.copies.get(each) != found))


def announce_to(client: RedisClient, keys: Keys, found: Partitioning) -> None:
    """Write one partition's copy, unless a newer one is there. Raises one of REDIS_ERRORS."""
    [answer] = _write(client, found, [keys])
    if isinstance(answer, Exception):
        raise answer


def _announced_everywhere(
    client: RedisClient, database_url: str, keyspace: Keyspace, wish: int, number: int
) -> Partitioning:
    """What is agreed on, once all partitions know that `number` may divide traders too."""
    try:
        found = agree(client, database_url, keyspace, wish)
    except REDIS_ERRORS as error:
        raise NotChanged(f"Redis did not answer, and nothing was changed: {error}") from error
    if number not in found.numbers:
        with database.connect(database_url, database.STORE) as connection:
            found = _settle(connection, found.announced(number), found)
    _everywhere(client, keyspace, found)
    return found


def _everywhere(client: RedisClient, keyspace: Keyspace, found: Partitioning) -> None:
    """Write all copies, and see that they are written. Raises NotChanged."""
    try:
        seen = partitions.look(client, keyspace, found.partitions)
        places = sorted({*range(found.width), *seen.copies})
        answers = _write(client, found, map(keyspace.keys, places))
    except REDIS_ERRORS as error:
        answers, places = [error], [0]
    for partition, answer in zip(places, answers, strict=True):
        if isinstance(answer, Exception):
            raise NotChanged(
                f"partition {partition} could not be told that the number of partitions changes: {answer}. "
                "Traders go on as they are; run the command again once Redis answers"
            )


def _write(client: RedisClient, found: Partitioning, keys: Iterable[Keys]) -> list[object]:
    copies = [each.partitioning for each in keys]
    return ask(client, [(copy, ("EVAL", _ANNOUNCE, 1, copy, found.text)) for copy in copies])


def _settle(
    connection: database.Connection, held: Partitioning | None, otherwise: Partitioning
) -> Partitioning:
    """Join what Postgres has with what Redis has, and store it. otherwise: where neither has anything."""
    with connection.transaction():
        row = _of_row(connection.execute(_SQL["lock"]).fetchone())
        if row is None or held is None:
            found = row or held or otherwise
        else:
            found = row.joined(held)
        if found != row:
            connection.execute(
                _SQL["store"],
                {"version": found.version, "partitions": found.partitions, "others": list(found.others)},
            )
    return found


def _of_row(row: tuple[object, ...] | None) -> Partitioning | None:
    """None: there is none, or what was written by hand cannot be used."""
    if row is None or row[1] is None:
        return None
    version, number, others = row
    assert isinstance(version, int)
    assert isinstance(others, list)
    text = f"{max(1, version)}:{','.join(map(str, [number, *others]))}"
    found = Partitioning.read(text)
    if found is None:
        log.error("risk_deployment in Postgres says %r about the number of partitions, which cannot be used", text)
    return found
