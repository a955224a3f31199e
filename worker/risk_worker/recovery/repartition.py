"""The command that shows how many partitions there are, and changes it while everything runs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg

from risk_producer.contract.partitioning import Partitioning
from risk_producer.errors import RiskError
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client
from risk_worker.database import connection as database
from risk_worker.database.sqlstate import classify_error
from risk_worker.recovery.floors import FloorsOfShare
from risk_worker.recovery.partitioning import agree, join_stored, joined, write
from risk_worker.stream import partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from risk_producer.settings import Settings
    from risk_worker.stream.partitions import InUse


class NotChanged(RiskError):
    """The number of partitions could not be shown or changed; the message says how far it came."""


def shown(settings: Settings) -> str:
    """What Redis has, for a person. Raises NotChanged."""
    with _client(settings) as client:
        return _shown_by_namespace(client, settings)


def change(settings: Settings, number: int) -> str:
    """Change the number of partitions, in all namespaces that are served. May be repeated, also after it
    failed half-way.

    First all partitions learn that traders may be divided by the new number too, so that load() asks there
    and workers drain there; only then is it in force, and producers follow. Postgres learns it
    first: a Redis may lose its data meanwhile. Returns what is in force, for a person.
    Raises NotChanged.
    """
    with _client(settings) as client:
        change_on(client, settings, number)
        return _shown_by_namespace(client, settings)


def change_on(client: RedisClient, settings: Settings, number: int) -> Partitioning:
    """Returns what is in force. Raises NotChanged or one of REDIS_ERRORS."""
    url, keyspace = settings.require_database_url(), settings.keyspace
    try:
        found = agree(client, url, keyspace, settings.partitions)
        if number not in found.numbers:
            found = _stored(url, found.announced(number))
        _announce(client, settings, found)
        if found.partitions != number:
            _compare(client, settings, found)
            found = _stored(url, found.changed(number))
            _announce(client, settings, found)
            if found.partitions != number:
                raise NotChanged(f"another change was quicker: there are {found.partitions} partitions now")
    except psycopg.Error as error:
        raise NotChanged(f"the database: {classify_error(error)}") from error
    return found


def _stored(url: str, found: Partitioning) -> Partitioning:
    with database.connect(url, database.STORE) as connection:
        return join_stored(connection, [found], found)


def _announce(client: RedisClient, settings: Settings, found: Partitioning) -> None:
    """Write the copies of all partitions, and see that they are written."""
    keyspace = settings.keyspace
    seen = partitions.look_at_all(client, keyspace, settings.partitions)
    for one, of in zip(keyspace.each, seen.found, strict=True):
        wanted = joined(found, keyspace, of)
        places = sorted({*range(wanted.width), *of.copies})
        answers = write(client, wanted, map(one.keys, places))
        for partition, answer in zip(places, answers, strict=True):
            name = keyspace.name(keyspace.number_of(one.keys(partition)))
            if isinstance(answer, Exception):
                raise NotChanged(
                    f"partition {name} could not take the change: {answer}. Producers that do not know of "
                    "it go on as they are, and nothing is lost; run the command again once Redis answers"
                )
            if answer != wanted.text.encode():  # a newer one is there, or another one of the same version
                raise NotChanged(
                    f"partition {name} has {_shown(answer)} instead of {wanted.text}: another change was "
                    "quicker; run the command again"
                )


def _compare(client: RedisClient, settings: Settings, found: Partitioning) -> None:
    """Compare all with Postgres, where that is not done: load() can rely at once on what they hold."""
    with FloorsOfShare(settings, client, settings.keyspace.numbers(found.width)) as floors:
        floors.compare()


@contextlib.contextmanager
def _client(settings: Settings) -> Iterator[RedisClient]:
    try:
        with redis_client(settings.require_redis_url(), answer_timeout_s=30, connect_timeout_s=5) as client:
            yield client
    except REDIS_ERRORS as error:
        raise NotChanged(f"Redis did not answer; the command may be run again: {error}") from error


def _shown(copy: object) -> str:
    return copy.decode(errors="backslashreplace") if isinstance(copy, bytes) else str(copy)


def _shown_by_namespace(client: RedisClient, settings: Settings) -> str:
    keyspace = settings.keyspace
    seen = partitions.look_at_all(client, keyspace, settings.partitions)
    texts = [_as_text(of, settings.partitions) for of in seen.found]
    if keyspace.is_several:
        texts = [f"namespace {name}\n{text}" for name, text in zip(keyspace.namespaces, texts, strict=True)]
    return "\n".join(texts)


def _as_text(seen: InUse, wish: int) -> str:
    if seen.agreed is None:
        lines = [f"Nothing is agreed on yet: a producer or worker with this environment makes it {wish}."]
    else:
        lines = [f"{'partitions':<15}{seen.agreed.partitions:>12,}"]
        if seen.agreed.others:
            lines.append(f"{'also looked at':<15}{', '.join(map(str, seen.agreed.others)):>12}")
    waiting = sorted(seen.entries.items())
    lines += [f"{f'partition {partition}':<15}{count:>12,} entries wait" for partition, count in waiting]
    return "\n".join(lines if waiting else [*lines, "No entries wait."])
