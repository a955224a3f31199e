"""What is agreed on about the number of partitions, kept the same in Redis and Postgres.

Redis has a copy in each partition (see risk_producer/contract/partitioning.py), Postgres one row. Where they
differ, the greater version counts, and the numbers of the other are looked at too: so a Redis that lost its
data gets back what was agreed on, and one that was there before Postgres' row fills that.

Where several namespaces are served, each keeps its copies for itself: what stands in one of them, which its
traders may write, changes neither Postgres nor another one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import psycopg

from risk_producer.contract.keys import Keys, Keyspace
from risk_producer.contract.partitioning import Partitioning
from risk_producer.contract.scripts import script
from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_producer.transport.servers import run
from risk_worker.database import connection as database
from risk_worker.database.deployment import identity_of
from risk_worker.stream import partitions
from risk_worker.stream.bindings import Bindings, OtherDatabase
from risk_worker.stream.partitions import InUse

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("riskstream.partitioning")

ERRORS: Final = (*REDIS_ERRORS, psycopg.Error, ConfigurationError)
"""What agree() raises."""

_SQL: Final = statements(__package__, "partitioning.sql")
_ANNOUNCE: Final = script(__package__, "announce")


def stored(connection: psycopg.Connection) -> Partitioning | None:
    """What Postgres has; None: nothing is agreed on."""
    return _of_row(connection.execute(_SQL["stored"]).fetchone())


def agree(client: RedisClient, database_url: str, keyspace: Keyspace, wish: int) -> Partitioning:
    """Make what Redis and Postgres know the same; where neither knows anything, the wish is agreed on.

    Returns what Postgres has. Raises one of ERRORS.
    """
    seen = partitions.look_at_all(client, keyspace, wish)
    with database.connect(database_url, database.STORE) as connection:
        bindings = Bindings(client, identity_of(connection))
        own: list[tuple[Keyspace, InUse]] = []
        for one, of in zip(keyspace.each, seen.found, strict=True):
            try:
                bindings.require_own(bindings.held(one.keys(each).database for each in {0, *of.copies}))
            except OtherDatabase:
                if not keyspace.is_several:
                    raise
            else:
                own.append((one, of))
        copies = [copy for copy in seen.found[0].copies.values() if copy is not None]
        first = Partitioning.wished(seen.agreed or wish).first()
        found = join_stored(connection, [] if keyspace.is_several else copies, first)
    for one, of in own:
        announce(client, one, joined(found, keyspace, of), of)
    return found


def joined(found: Partitioning, keyspace: Keyspace, seen: InUse) -> Partitioning:
    """What the copies of one namespace should hold, of all that are served; found: what Postgres has.

    That of the only namespace is part of it already.
    """
    if not keyspace.is_several or seen.agreed is None or seen.agreed == found:
        return found
    return found.joined(seen.agreed)


def announce(client: RedisClient, keyspace: Keyspace, found: Partitioning, seen: InUse) -> None:
    """Write the copies of one namespace that differ, where a node answers.

    Raises one of REDIS_ERRORS where none does.
    """
    places = {*range(found.width), *seen.copies} - seen.away
    write(client, found, (keyspace.keys(each) for each in places if seen.copies.get(each) != found))


def announce_to(client: RedisClient, keys: Keys, found: Partitioning) -> None:
    """Write one partition's copy, unless a newer one is there. Raises one of REDIS_ERRORS."""
    [answer] = write(client, found, [keys])
    if isinstance(answer, Exception):
        raise answer


def write(client: RedisClient, found: Partitioning, keys: Iterable[Keys]) -> list[object]:
    """Write copies, where no newer ones are. Returns what Redis answered, errors included.

    Raises one of REDIS_ERRORS where no server answers.
    """
    known = client.register_script(_ANNOUNCE)
    return run(client, [(known, [each.partitioning], [found.text]) for each in keys])


def join_stored(
    connection: database.Connection, copies: Iterable[Partitioning], otherwise: Partitioning
) -> Partitioning:
    """Join what Postgres has with the copies in Redis, and store it. otherwise: where neither has anything.

    Of one version the number in Postgres counts: a copy may be that of a producer that came first to a node
    without data.
    """
    with connection.transaction():
        row = _of_row(connection.execute(_SQL["lock"]).fetchone())
        known = row
        for copy in copies:
            known = copy if known is None else known.joined(copy)
        found = known or otherwise
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
        log.error(
            "risk_deployment in Postgres says %r about the number of partitions, which cannot be used", text
        )
    return found
