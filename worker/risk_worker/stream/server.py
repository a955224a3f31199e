"""The servers of Redis that hold the partitions: what each says of itself, and whether it takes writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import SlotNotCoveredError

from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.transport.connect import REDIS_ERRORS, CertificateRefused, RedisClient, is_cluster
from risk_producer.transport.servers import AWAY, Question, ask_each, probe_each, server_of

NO_EVICTION: Final = "noeviction"
"""The only eviction policy with which Redis itself removes nothing."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server. What it does not tell, or this user may not ask, is None."""

    address: str
    """host:port, or the path of a socket; empty: no server has the partitions."""
    partitions: tuple[int, ...] = ()
    """The numbers of those that it holds, of the ones that were asked about; see Keyspace."""
    refusal: str | None = None
    """Why it takes no writes: a sentence that says what to do. None: it takes them."""
    away: bool = False
    """The refusal is that it does not answer, or not as Redis; nothing else is known of it then."""
    version: str | None = None
    """As `Valkey 9.0.0` or `Redis 7.0.15`."""
    role: str | None = None
    """master or slave, as Redis calls them."""
    memory_used: int | None = None
    """Bytes."""
    memory_limit: int | None = None
    """maxmemory in bytes; None where there is none, too."""
    eviction_policy: str | None = None
    """maxmemory-policy."""
    appendonly: bool | None = None
    """Whether it writes an append-only file."""
    appendfsync: str | None = None
    """always, everysec or no, where this user may ask CONFIG GET."""
    rdb: bool | None = None
    """Whether it writes RDB files by itself, where this user may ask CONFIG GET."""
    run_id: str | None = None
    """Another one after each start of the server."""

    @property
    def memory_share(self) -> float | None:
        """memory_used / memory_limit; None: there is no limit, or it is not known."""
        if self.memory_used is None or not self.memory_limit:
            return None
        return self.memory_used / self.memory_limit

    @property
    def persistence(self) -> str | None:
        """For a person: what survives a restart of the server."""
        kinds = []
        if self.appendonly:
            kinds.append(
                f"append-only file (fsync {self.appendfsync})" if self.appendfsync else "append-only file"
            )
        if self.rdb:
            kinds.append("RDB")
        if kinds:
            return ", ".join(kinds)
        if self.appendonly is None:
            return None
        return "no append-only file" if self.rdb is None else "none"


def look(
    client: RedisClient, partitions: Sequence[Keys], keyspace: Keyspace = NO_NAMESPACE
) -> list[ServerFacts]:
    """The facts of each server that holds one of these partitions. Raises nothing of Redis.

    One round trip for each server. A node of a cluster is tried for PROBE_S before it is asked; the only
    server there is has the time-out of the client. Nothing is left behind, see _write().
    """
    try:
        servers, uncovered = _servers(client, partitions)
    except REDIS_ERRORS as error:
        return [_without_answer(_address(client), _numbers(partitions, keyspace), error)]
    found = [_uncovered(_numbers(uncovered, keyspace))] if uncovered else []
    if not servers:
        return found
    first = [held[0] for held in servers.values()]
    try:
        away = probe_each(client, [keys.snapshots for keys in first])
        asked = [keys for keys in first if keys.snapshots not in away]
        answers = ask_each(client, [question for keys in asked for question in _questions(keys)])
    except REDIS_ERRORS as error:
        return [
            *(_without_answer(address, _numbers(held, keyspace), error) for address, held in servers.items()),
            *found,
        ]
    size = len(_questions(first[0]))
    of_asked = {keys: answers[size * at : size * (at + 1)] for at, keys in enumerate(asked)}
    return [
        *(
            _facts(address, _numbers(held, keyspace), of_asked[held[0]])
            if held[0] in of_asked
            else _without_answer(address, _numbers(held, keyspace), away[held[0].snapshots])
            for address, held in servers.items()
        ),
        *found,
    ]


def refusals(servers: Sequence[ServerFacts]) -> list[str]:
    """A sentence for each server that takes no writes."""
    return [each.refusal for each in servers if each.refusal]


def _write(keys: Keys) -> tuple[Any, ...]:
    """A command that Redis refuses whenever it refuses what traders send, and that changes nothing.

    It is refused before it is executed (without memory, on a replica, after a failed save, with too few
    replicas). The key does not exist, so that nothing is added, to any file or replica either; were it there
    all the same, MAXLEN 0 would remove what is in it.
    """
    return ("XADD", keys.write_probe, "NOMKSTREAM", "MAXLEN", 0, "*", "s", "")


def _questions(keys: Keys) -> list[Question]:
    commands: tuple[tuple[Any, ...], ...] = (
        _write(keys),
        ("INFO",),
        ("CONFIG", "GET", "save"),
        ("CONFIG", "GET", "appendfsync"),
    )
    return [(keys.snapshots, words) for words in commands]


def _servers(client: Any, partitions: Sequence[Keys]) -> tuple[dict[str, list[Keys]], list[Keys]]:
    """The partitions of each server, by its address; and those whose slot no node of the cluster has."""
    if not is_cluster(client):
        return ({_address(client): list(partitions)} if partitions else {}), []
    servers: dict[str, list[Keys]] = {}
    uncovered: list[Keys] = []
    for keys in partitions:
        try:
            servers.setdefault(server_of(client, keys.snapshots), []).append(keys)
        except SlotNotCoveredError:
            uncovered.append(keys)
    return servers, uncovered


def _address(client: Any) -> str:
    """Of the only server there is, or of the master that Sentinels name."""
    if is_cluster(client):
        return ""
    pool = client.connection_pool
    place: Mapping[str, Any] = pool.connection_kwargs
    if "path" in place:
        return str(place["path"])
    master = getattr(pool, "master_address", None)
    if master:
        return f"{master[0]}:{master[1]}"
    if hasattr(pool, "service_name"):
        return f"master {pool.service_name}"
    return f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"


def _numbers(held: Sequence[Keys], keyspace: Keyspace) -> tuple[int, ...]:
    return tuple(map(keyspace.number_of, held))


def _facts(address: str, partitions: tuple[int, ...], answers: Sequence[Any]) -> ServerFacts:
    written, info, save, appendfsync = answers
    if isinstance(written, AWAY) and not isinstance(info, Mapping):
        return _without_answer(address, partitions, written)
    known: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
    fork = "Valkey" if "valkey_version" in known else "Redis"
    version = _text(known.get("valkey_version", known.get("redis_version")))
    fsync = _setting(appendfsync, "appendfsync")
    saves = _setting(save, "save")
    appendonly = _number(known.get("aof_enabled"))
    return ServerFacts(
        address,
        partitions,
        refusal=why_refused(written, address) if isinstance(written, Exception) else None,
        version=None if version is None else f"{fork} {version}",
        role=_text(known.get("role")),
        memory_used=_number(known.get("used_memory")),
        memory_limit=_number(known.get("maxmemory")) or None,
        eviction_policy=_text(known.get("maxmemory_policy")),
        appendonly=None if appendonly is None else appendonly == 1,
        appendfsync=fsync or None,
        rdb=None if saves is None else bool(saves),
        run_id=_text(known.get("run_id")),
    )


def _without_answer(address: str, partitions: tuple[int, ...], error: Exception) -> ServerFacts:
    return ServerFacts(address, partitions, refusal=why_refused(error, address), away=True)


def _uncovered(partitions: tuple[int, ...]) -> ServerFacts:
    noun = "partition" if len(partitions) == 1 else "partitions"
    return ServerFacts(
        "",
        partitions,
        refusal="No node of the Redis Cluster has the slots of the "
        f"{noun} {', '.join(map(str, partitions))}. Look at CLUSTER SLOTS, and at the nodes that are down",
        away=True,
    )


# What an error says -> why, and what to do. The first that fits counts.
_REASONS: Final = (
    (
        r"\bOOM\b|command not allowed when used memory",
        "it uses all the memory that its maxmemory allows",
        "Raise maxmemory, or start a worker where the streams are long; meanwhile snapshots wait in the "
        "traders' buffers",
    ),
    (
        r"\bNOAUTH\b|Authentication required",
        "it asks for a password",
        "Put the user and the password into REDIS_URL",
    ),
    (
        r"\bWRONGPASS\b|invalid username-password|invalid password",
        "it refuses the user or the password",
        "Correct the user and the password in REDIS_URL",
    ),
    (
        r"\bNOPERM\b|no permissions",
        "the user may not do it",
        "Give the permission, see docs/operate/redis-users.md",
    ),
    (
        r"\bMISCONF\b",
        "it could not write its data to the disk",
        "Look at Redis' log and at the free space of its disk",
    ),
    (
        r"\bREADONLY\b|read only replica|read-only",
        "it is a replica",
        "Name the master in REDIS_URL, or use Sentinels or a cluster",
    ),
    (
        r"\bMASTERDOWN\b|Link with MASTER is down",
        "it is a replica that has lost its master",
        "Name the master in REDIS_URL, or start it",
    ),
    (r"\bLOADING\b|is loading the dataset", "it is loading its data from disk", "Wait until it has"),
    (
        r"\bNOREPLICAS\b|Not enough good replicas",
        "it has fewer replicas than min-replicas-to-write asks for",
        "Start the replicas, or lower min-replicas-to-write",
    ),
    (
        r"\bCLUSTERDOWN\b|cluster is down|Hash slot not served",
        "the Redis Cluster is down there",
        "Look at CLUSTER INFO, and at the nodes that are down",
    ),
)


def why_refused(error: Exception, address: str = "") -> str:
    """The sentence for an error of a write: which server, why, and what to do."""
    answer = f"{getattr(error, 'status_code', None) or ''} {error}".strip() or type(error).__name__
    place = f"Redis at {address}" if address else "Redis"
    refused = _certificate_refused(error)
    if refused is not None:
        return ". ".join(each[:1].upper() + each[1:] for each in (refused.what, refused.todo) if each)
    for pattern, reason, cure in _REASONS:
        if re.search(pattern, answer):
            return f"{place} takes no writes, as {reason} ({_line(answer)}). {cure}"
    if isinstance(error, AWAY):
        return f"{place} does not answer ({_line(answer)}). Look whether it runs and can be reached"
    return f"{place} takes no writes ({_line(answer)})"


def _certificate_refused(error: BaseException | None) -> CertificateRefused | None:
    """What is behind the error of a cluster's client, or of one that asks Sentinels, too."""
    while error is not None and not isinstance(error, CertificateRefused):
        error = error.__cause__
    return error


def _line(answer: str) -> str:
    """One line for a sentence's brackets."""
    return " ".join(answer.split()).rstrip(".")[:300]


def _number(raw: Any) -> int | None:
    try:
        return int(raw)
    except (TypeError, ValueError):
        return None


def _text(raw: Any) -> str | None:
    return None if raw is None else str(raw)[:100]


def _setting(answer: Any, name: str) -> str | None:
    """What CONFIG GET answered; None: the server, or its permissions, do not tell."""
    if not isinstance(answer, Mapping):
        return None
    for each in (name, name.encode()):
        if each in answer:
            value = answer[each]
            return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return None
