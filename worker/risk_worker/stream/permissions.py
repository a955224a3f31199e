"""What users of Redis may do: the roles of ops/redis/users.acl, and what of a role this user lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from redis.exceptions import ResponseError

from risk_producer.contract.keys import Keyspace
from risk_producer.errors import RiskError
from risk_producer.transport.connect import RedisClient
from risk_producer.transport.servers import beside

# In a wheel the file is inside the package.
_PACKAGED: Final = Path(__file__).parents[1] / "_ops" / "users.acl"
_CHECKOUT: Final = Path(__file__).parents[3] / "ops" / "redis" / "users.acl"

NO_ROLES: Final = ("default", "admin")
"""Users in the file that no program of riskstream logs in as."""

_OF_PARTITION: Final = "risk:{*}:"
KEY: Final = "KEY"
_SHAPES: Final[Mapping[str, Sequence[Any]]] = {
    "blmove": (KEY, KEY, "LEFT", "RIGHT", 1),
    "client|info": (),
    "client|setname": ("probe",),
    "evalsha": ("0" * 40, 1, KEY),
    "exec": (),
    "expire": (KEY, 1),
    "hdel": (KEY, "field"),
    "hexists": (KEY, "field"),
    "hget": (KEY, "field"),
    "hincrby": (KEY, "field", 0),
    "hincrbyfloat": (KEY, "field", 0),
    "hmget": (KEY, "field"),
    "hscan": (KEY, 0),
    "hset": (KEY, "field", ""),
    "info": (),
    "lmove": (KEY, KEY, "LEFT", "RIGHT"),
    "lpos": (KEY, ""),
    "lpush": (KEY, ""),
    "lrange": (KEY, 0, 0),
    "lrem": (KEY, 0, ""),
    "ltrim": (KEY, 0, 0),
    "memory|usage": (KEY,),
    "multi": (),
    "ping": (),
    "rename": (KEY, KEY),
    "rpush": (KEY, ""),
    "sadd": (KEY, ""),
    "script|load": ("return 1",),
    "set": (KEY, "", "NX"),
    "setnx": (KEY, ""),
    "srem": (KEY, ""),
    "subscribe": (KEY,),
    "time": (),
    "unsubscribe": (),
    "unwatch": (),
    "xadd": (KEY, "NOMKSTREAM", "*", "field", ""),
    "xdel": (KEY, "0-1"),
    "xrange": (KEY, "-", "+"),
    "xread": ("STREAMS", KEY, "0"),
    "xrevrange": (KEY, "+", "-"),
    "xtrim": (KEY, "MINID", "=", 0),
    "zadd": (KEY, 0, ""),
    "zrange": (KEY, 0, 0),
    "zrangebyscore": (KEY, 0, 0),
    "zrem": (KEY, ""),
    "zremrangebyscore": (KEY, 0, 0),
    "zscore": (KEY, ""),
}
"""Command -> words behind its name; KEY stands for a key or a channel. Others have a key alone."""
_NOT_QUEUED: Final = frozenset({"multi", "exec", "watch"})
"""A transaction is of these; they cannot be asked inside one."""


class NotAsked(RiskError):
    """The user may not begin a transaction, in which the server could be asked what it may do."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Commands, and the names that each of them may be used on: the user's own, or one of its selectors."""

    commands: tuple[str, ...]
    """In lower case; one of a container as `script|load`."""
    keys: tuple[str, ...]
    """Patterns as Redis has them: `~name`, or `%R~name` to read alone and `%W~name` to write alone."""
    channels: tuple[str, ...] = ()
    """Patterns of channels."""

    @property
    def is_of_rq(self) -> bool:
        """Whether it is about RQ's Redis."""
        return any(not pattern.startswith(_OF_PARTITION) for pattern in self.patterns)

    @property
    def patterns(self) -> list[str]:
        """Of the keys, whether they are read or written."""
        return [key.rpartition("~")[2] for key in self.keys]


@cache
def roles() -> dict[str, tuple[Rule, ...]]:
    """Name of each role -> its rules."""
    lines = text().splitlines()
    found = {line.split()[1]: _rules(line) for line in lines if line.strip()}
    return {name: rules for name, rules in found.items() if name not in NO_ROLES}


def uses_streams(role: str) -> bool:
    """Whether a role has to do with the streams' Redis."""
    return any(rule.keys and not rule.is_of_rq for rule in roles()[role])


def uses_rq(role: str) -> bool:
    """Whether a role has to do with RQ's Redis."""
    return any(rule.is_of_rq for rule in roles()[role])


def text() -> str:
    """ops/redis/users.acl, in which passwords are still to be put."""
    return (_PACKAGED if _PACKAGED.exists() else _CHECKOUT).read_text(encoding="utf-8")


def lacking(
    client: RedisClient, role: str, keyspace: Keyspace, partition: int, *, rq: bool
) -> dict[str, list[str]]:
    """What this user may not do of what a role needs: command, as `script|load` -> keys that it needs it on.

    Nothing is run: the commands are queued in a transaction that is given up. rq: of the rules about RQ's
    Redis, and not about the streams'. Raises NotAsked, and one of REDIS_ERRORS.
    """
    asked = [
        (name, words)
        for rule in roles()[role]
        if rule.is_of_rq is rq
        for name, words in examples(rule, keyspace, partition)
    ]
    place = keyspace.drain_jobs if rq else keyspace.keys(partition).snapshots
    answers = _queued(client, place, [words for _, words in asked])
    found: dict[str, list[str]] = {}
    for (name, words), answer in zip(asked, answers, strict=True):
        if answer is not None and (_is_forbidden(answer) or "unknown" in str(answer).lower()):
            keys = [str(word) for word in words if ":" in str(word)]
            found.setdefault(name, []).extend(keys[:1])
    return found


def examples(rule: Rule, keyspace: Keyspace, partition: int) -> Iterator[tuple[str, list[Any]]]:
    """(name, words) of each command of a rule on each of its keys or channels."""
    of_partition = keyspace.keys(partition).snapshots.removesuffix("snapshots")
    others = keyspace.drain_jobs.removesuffix("risk:drain-jobs")
    for name in rule.commands:
        patterns = rule.channels if name == "subscribe" else rule.patterns
        for pattern in patterns if KEY in shape(name) else ("",):
            within = pattern.removeprefix(_OF_PARTITION)
            key = (others if within == pattern else of_partition) + within.replace("*", "probe")
            yield name, [*name.upper().split("|"), *(key if word == KEY else word for word in shape(name))]


def shape(name: str) -> Sequence[Any]:
    """What stands behind a command's name, with KEY for each key or channel."""
    return _SHAPES.get(name, (KEY,))


def _is_forbidden(error: Exception) -> bool:
    answer = f"{getattr(error, 'status_code', None) or ''} {type(error).__name__} {error}"
    return any(each in answer for each in ("NOPERM", "NoPermission", "no permissions"))


def _rules(line: str) -> tuple[Rule, ...]:
    own, *selectors = re.split(r"\s*\(", line)
    return tuple(_rule(part.rstrip(") ").split()) for part in (own, *selectors))


def _rule(words: Sequence[str]) -> Rule:
    return Rule(
        tuple(word[1:] for word in words if word.startswith("+")),
        tuple(word for word in words if re.match(r"(?:%[RW]+)?~", word)),
        tuple(word[1:] for word in words if word.startswith("&")),
    )


def _queued(client: Any, key: str, commands: Sequence[Sequence[Any]]) -> list[Exception | None]:
    """The error with which the server that holds the key refuses to queue each command; None: it would run
    it."""
    where = beside(client, key)
    server = client.get_redis_connection(where["target_nodes"]) if where else client
    connection = server.connection_pool.get_connection()
    answers: list[Exception | None] = []
    try:
        connection.send_command("MULTI")
        try:
            connection.read_response()
        except ResponseError as error:  # without it the others would be run
            raise NotAsked(f"what this user of Redis may do cannot be looked at: {error}") from error
        transaction = [words for words in commands if words[0].lower() not in _NOT_QUEUED]
        connection.send_packed_command(connection.pack_commands(transaction))
        for _ in transaction:
            try:
                connection.read_response()
                answers.append(None)
            except ResponseError as error:
                answers.append(error)
    finally:
        connection.disconnect()  # the server gives up the transaction
        server.connection_pool.release(connection)
    queued = iter(answers)
    return [None if words[0].lower() in _NOT_QUEUED else next(queued) for words in commands]
