"""Redis: the one with the streams, and RQ's."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from secrets import token_hex
from time import monotonic
from typing import Any, Final

from risk_producer.contract.keys import Keys
from risk_producer.contract.partitioning import Partitioning
from risk_producer.settings import Settings, mask
from risk_producer.settings.address import redis_address
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient, redis_client, try_to_connect
from risk_producer.transport.servers import AWAY, Question, ask_each
from risk_worker.doctor.check import CONNECTION, Check, Finding, Link, failure, ok, skipped, warning
from risk_worker.stream import partitions as in_use
from risk_worker.stream import server
from risk_worker.stream.server import NO_EVICTION, ServerFacts
from risk_worker.stream.workers import LEASE_S, registered_workers

ANSWER_S: Final = 2.0
ENTRY_BYTES: Final = 350
"""What an entry of a stream takes in Redis, where none is there to be measured."""
MEASURED: Final = 100
"""Entries of a stream from which on their size is measured."""
APART_S: Final = 1.0
"""Clocks that are further apart are worth a warning."""
KEPT_S: Final = 30
"""After so long Redis removes by itself what a probe left that was ended half-way."""


class Streams:
    """The checks of the Redis with the streams."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self.client: RedisClient = redis_client(url, answer_timeout_s=ANSWER_S, connect_timeout_s=ANSWER_S)
        self._facts: list[ServerFacts] | None = None
        self.ahead_s: float | None = None
        """By how much its clock is ahead of the one here; None: it was not asked."""

    def link(self) -> Link:
        """All of them; the first one shows whether it answers at all."""
        return Link(
            "redis",
            [
                Check(CONNECTION, self.connection),
                Check("tls", lambda: tls(self._url)),
                Check("version", self.version),
                Check("role", self.role),
                Check("writes", self.writes),
                Check("eviction", self.eviction),
                Check("persistence", self.persistence),
                Check("memory", self.memory),
                Check("commands", self.commands),
                Check("clock", self.clock),
                Check("partitions", self.partitions),
            ],
            self.client.close,
        )

    def connection(self) -> Iterator[Finding]:
        """It answers, and takes the password."""
        yield from connection(self.client, self._url)

    def version(self) -> Iterator[Finding]:
        """What it is; a connection to one that is too old has been refused already."""
        for each in self._servers():
            yield ok(f"{each.address} is {each.version or 'of a version that it does not tell'}")

    def role(self) -> Iterator[Finding]:
        """A master."""
        for each in self._servers():
            if each.role is None:
                yield warning(f"{each.address} does not tell whether it is a master", "Let the user do INFO")
            elif each.role != "master":
                yield failure(
                    f"{each.address} is a replica",
                    "Name the master in REDIS_URL, or use redis+sentinel:// or redis+cluster://",
                )
            else:
                yield ok(f"{each.address} is a master")

    def writes(self) -> Iterator[Finding]:
        """It takes what traders send."""
        for each in self._servers():
            if each.refusal:
                what, _, todo = each.refusal.rpartition(". ")
                yield failure(what or each.refusal, todo if what else "")
            else:
                yield ok(f"{each.address} takes writes")

    def eviction(self) -> Iterator[Finding]:
        """It removes nothing by itself."""
        for each in self._servers():
            if each.eviction_policy == NO_EVICTION:
                yield ok(f"{each.address} removes nothing by itself ({NO_EVICTION})")
            elif each.eviction_policy is not None:
                found = failure if each.memory_limit else warning
                yield found(
                    f"{each.address} may remove what is not stored yet when it is full: maxmemory-policy is "
                    f"{each.eviction_policy}",
                    f"CONFIG SET maxmemory-policy {NO_EVICTION}, and the same in its configuration file",
                )

    def persistence(self) -> Iterator[Finding]:
        """What it holds survives a restart."""
        for each in self._servers():
            if each.appendonly:
                if each.appendfsync == "no":
                    yield warning(
                        f"{each.address} leaves writing to the disk to the system (appendfsync no)",
                        "CONFIG SET appendfsync everysec; with always the last second is kept, too",
                    )
                else:
                    yield ok(f"{each.address}: {each.persistence}")
            elif each.appendonly is not None:
                yield warning(
                    f"{each.address} writes no append-only file: a restart loses what is accepted and not "
                    f"stored ({each.persistence})",
                    "CONFIG SET appendonly yes, and the same in its configuration file",
                )

    def memory(self) -> Iterator[Finding]:
        """maxmemory, against all streams at their cap."""
        seen = in_use.look(self.client, self._settings.keyspace, self._settings.partitions)
        numbers = range(self._settings.partitions if seen.agreed is None else seen.agreed.partitions)
        cap = -(-self._settings.stream_maxlen // len(numbers))
        entry_bytes, held = self._entry_bytes(seen.entries)
        for each in self._servers():
            of_it = [number for number in each.partitions if number in numbers]
            needs = cap * len(of_it) * entry_bytes
            full = f"full streams ({cap * len(of_it):,} entries of {entry_bytes} bytes) take {_size(needs)}"
            if each.memory_limit is None:
                yield warning(
                    f"{each.address} has no maxmemory; {full}",
                    "Set maxmemory to more than that, and less than its machine has: so traders wait before "
                    "the machine runs out of memory",
                )
                continue
            others = max(0, (each.memory_used or 0) - sum(held.get(number, 0) for number in of_it))
            room = each.memory_limit - others
            if needs > room:
                fits = max(0, room) // entry_bytes * len(numbers) // max(1, len(of_it))
                yield warning(
                    f"{full}, and {each.address} has {_size(max(0, room))} for them: it refuses writes "
                    "before they are full",
                    f"Raise maxmemory, or lower RISK_STREAM_MAXLEN to {fits:,}",
                )
            else:
                yield ok(f"{full}; {each.address} has {_size(room)} for them")

    def commands(self) -> Iterator[Finding]:
        """A round trip through a stream, a hash, a list, a text and a script; nothing is left behind."""
        for each in self._servers():
            if not each.away and each.partitions:
                keys = self._settings.keyspace.keys(each.partitions[0])
                user = redis_address(self._url).options.get("username", "default")
                yield from probe(self.client, keys, each.address, user)

    def clock(self) -> Iterator[Finding]:
        """Against the one here."""
        began = datetime.now(UTC).timestamp()
        key = self._settings.keyspace.keys(0).snapshots
        [answer] = ask_each(self.client, [(key, ("TIME",))])
        ended = datetime.now(UTC).timestamp()
        if isinstance(answer, Exception):
            yield warning(f"Redis does not tell its time: {answer}", "Let the user do TIME")
            return
        self.ahead_s = answer[0] + answer[1] / 1e6 - (began + ended) / 2
        yield apart("Redis", self.ahead_s, (ended - began) / 2)

    def partitions(self) -> Iterator[Finding]:
        """Traders and workers agree on their number: it stands beside each stream."""
        here = self._settings.partitions
        seen = in_use.look(self.client, self._settings.keyspace, here)
        if seen.agreed is None:
            yield warning(
                "nothing is agreed on yet about the number of partitions",
                f"The first worker or trader makes it RISK_PARTITIONS, which is {here} here",
            )
            return
        if here != seen.agreed.partitions:
            yield warning(
                f"RISK_PARTITIONS is {here} here, and the deployment has {seen.agreed.partitions} "
                "partitions, which is what counts",
                "Correct the environment, or change the deployment: riskstream partitions",
            )
        if not seen.uniform:
            yield warning(
                "not all partitions have the same copy of what is agreed on: "
                f"{_copies(seen.copies.values())}",
                "A worker writes them anew within seconds: start one, or look at its log",
            )
        elif here == seen.agreed.partitions:
            yield ok(f"all {seen.agreed.partitions} partitions have the same copy of their number")

    def _servers(self) -> list[ServerFacts]:
        if self._facts is None:
            settings = self._settings
            width = in_use.look(self.client, settings.keyspace, settings.partitions).width
            self._facts = server.look(self.client, [settings.keyspace.keys(each) for each in range(width)])
        return self._facts

    def _entry_bytes(self, entries: Any) -> tuple[int, dict[int, int]]:
        """(bytes an entry, partition -> bytes of its stream); measured where there are some."""
        names = {number: self._settings.keyspace.keys(number).snapshots for number in entries}
        questions: list[Question] = [(name, ("MEMORY", "USAGE", name)) for name in names.values()]
        answers = ask_each(self.client, questions)
        held = {
            number: answer for number, answer in zip(names, answers, strict=True) if isinstance(answer, int)
        }
        many = {number: size for number, size in held.items() if entries[number] >= MEASURED}
        if not many:
            return ENTRY_BYTES, held
        return -(-sum(many.values()) // sum(entries[number] for number in many)), held


class Queue:
    """The checks of RQ's Redis, which may be the same."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._separate = url != settings.redis_url
        self.client: RedisClient = redis_client(
            url, answer_timeout_s=ANSWER_S, connect_timeout_s=ANSWER_S, name="RQ_REDIS_URL"
        )

    def link(self) -> Link:
        """All of them."""
        checks = [Check(CONNECTION, self.connection)]
        if self._separate:
            checks.append(Check("tls", lambda: tls(self._url)))
            checks.append(Check("writes", self.writes))
        checks += [Check("suspended", self.suspended), Check("workers", self.workers)]
        return Link("rq", checks, self.client.close)

    def connection(self) -> Iterator[Finding]:
        """It answers, and takes the password."""
        found = list(connection(self.client, self._url))
        if not self._separate and found[0].level == "failure":
            found = [skipped("it is the Redis with the streams")]
        yield from found

    def writes(self) -> Iterator[Finding]:
        """It takes writes, and removes nothing by itself."""
        for each in server.look(self.client, [self._settings.keyspace.keys(0)]):
            if each.refusal:
                yield failure(each.refusal)
            elif each.memory_limit and each.eviction_policy != NO_EVICTION:
                yield warning(
                    f"{each.address} may remove RQ's keys: maxmemory-policy is {each.eviction_policy}",
                    f"CONFIG SET maxmemory-policy {NO_EVICTION}",
                )
            else:
                yield ok(f"{each.address} takes writes")

    def suspended(self) -> Iterator[Finding]:
        """Workers may take jobs."""
        if self.client.exists(f"{self._settings.keyspace.rq_prefix}:suspended"):
            yield failure("RQ's workers are suspended, so they take no share", "rq resume lets them go on")
        else:
            yield ok("RQ's workers are not suspended")

    def workers(self) -> Iterator[Finding]:
        """There is one that is alive, and it can store."""
        found = registered_workers(self.client, self._settings.keyspace)
        alive = [each for each in found if each.is_alive]
        for each in alive:
            if each.cannot_store:
                yield failure(
                    f"the worker {each.where} cannot store: {each.cannot_store}",
                    "Correct that in Postgres; the worker tries again by itself",
                )
        if any(each.cannot_store for each in alive):
            return
        if alive:
            yield ok(f"{len(alive)} worker{'' if len(alive) == 1 else 's'} heard of within {LEASE_S} s")
        else:
            yield warning("no worker has been heard of", "Start one: riskstream worker")


def connection(client: RedisClient, url: str) -> Iterator[Finding]:
    """Whether a server answers, and how soon."""
    began = monotonic()
    try:
        try_to_connect(client)
    except REDIS_ERRORS as error:
        what, found, todo = server.why_refused(error, _place(url)).rpartition(". ")
        yield failure(what if found else todo, todo if found else "")
        return
    yield ok(f"{mask(url)} answers in {1000 * (monotonic() - began):.1f} ms, with the connection")


def tls(url: str) -> Iterator[Finding]:
    """What crosses a network is encrypted, and the server is who it says."""
    address = redis_address(url)
    far = [host for host, _ in address.places if not is_here(host)]
    if address.socket or not far:
        yield ok("it is on this machine, so nothing crosses a network")
    elif not address.tls:
        yield warning(
            f"the connection to {far[0]} is not encrypted: passwords and snapshots cross the network as they "
            "are",
            "rediss:// instead of redis://, where the server has TLS",
        )
    elif address.options.get("ssl_cert_reqs") == "none" or address.options.get("ssl_check_hostname") is False:
        yield warning(
            f"the connection to {far[0]} is encrypted, and its certificate is not verified",
            "Leave ssl_cert_reqs and ssl_check_hostname out; ssl_ca_certs=FILE names the authority",
        )
    else:
        yield ok(f"the connection to {far[0]} is encrypted and verified")


PAYLOAD: Final = b'{"probe":true}'
SCRIPT: Final = "return redis.call('XLEN', KEYS[1])"


def probe(client: RedisClient, keys: Keys, address: str, user: str) -> Iterator[Finding]:
    """Try each kind of command that traders and workers need, on keys that are removed at once."""
    name = f"{keys.probe}:{token_hex(4)}"
    stream, hash_, list_, text = (f"{name}:{kind}" for kind in ("stream", "hash", "list", "text"))
    commands: tuple[tuple[Any, ...], ...] = (
        ("XADD", stream, "*", "s", PAYLOAD),
        ("EXPIRE", stream, KEPT_S),
        ("XLEN", stream),
        ("XRANGE", stream, "-", "+", "COUNT", 1),
        ("XREVRANGE", stream, "+", "-", "COUNT", 1),
        ("XREAD", "COUNT", 1, "STREAMS", stream, "0"),
        ("TYPE", stream),
        ("EVAL", SCRIPT, 1, stream),
        ("SCRIPT", "LOAD", SCRIPT),
        ("XTRIM", stream, "MAXLEN", "=", 1),
        ("XDEL", stream, "0-1"),
        ("HSET", hash_, "field", "1"),
        ("EXPIRE", hash_, KEPT_S),
        ("HINCRBY", hash_, "field", 1),
        ("HGET", hash_, "field"),
        ("HMGET", hash_, "field"),
        ("HEXISTS", hash_, "field"),
        ("HGETALL", hash_),
        ("HSCAN", hash_, 0),
        ("HLEN", hash_),
        ("HDEL", hash_, "field"),
        ("RPUSH", list_, "1"),
        ("EXPIRE", list_, KEPT_S),
        ("LRANGE", list_, 0, -1),
        ("LTRIM", list_, 1, -1),
        ("SET", text, "1", "NX", "EX", KEPT_S),
        ("GET", text),
        ("EXISTS", text),
    )
    answers = ask_each(client, [(stream, words) for words in commands])
    removed = ask_each(client, [(stream, ("DEL", key)) for key in (stream, hash_, list_, text)])
    refused = {
        " ".join(words[:2]).lower() if words[0] == "SCRIPT" else words[0].lower(): answer
        for words, answer in zip((*commands, ("DEL",)), (*answers, removed[0]), strict=True)
        if isinstance(answer, Exception)
    }
    away = next((answer for answer in refused.values() if isinstance(answer, AWAY)), None)
    forbidden = [each for each, answer in refused.items() if _is_forbidden(answer)]
    if away is not None:
        yield failure(f"{address} does not answer: {away}", "Look whether it runs")
    elif forbidden:
        # The first error names a key where that is what is forbidden.
        yield failure(
            f"the user {user} of {address} may not do all that is needed: {', '.join(forbidden)} "
            f"({next(iter(refused.values()))})",
            f"ACL SETUSER {user} "
            + " ".join(f"+{each.replace(' ', '|')}" for each in forbidden)
            + f" ~{keys.snapshots.partition('{')[0]}*",
        )
    elif refused:
        command, answer = next(iter(refused.items()))
        yield failure(f"{address} refuses {command}: {answer}")
    elif not _came_back(answers[3]):
        yield failure(f"what was written to {address} was not read back: {str(answers[3])[:100]}")
    else:
        yield ok(f"a probe went through {address} and back, and nothing of it is left")


def apart(name: str, ahead_s: float, uncertain_s: float) -> Finding:
    """The finding for a clock. uncertain_s: seconds by which that may be wrong."""
    if abs(ahead_s) - uncertain_s <= APART_S:
        return ok(f"the clock of {name} is within {APART_S:g} s of the one here")
    return warning(
        f"the clock of {name} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the one here",
        "Let both follow the same time server; nothing is lost by it, and times and ages are wrong",
    )


def is_here(host: str) -> bool:
    """Whether a host is this machine, as far as its name shows."""
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _came_back(found: Any) -> bool:
    try:
        [(_, fields)] = found
        pairs = fields if isinstance(fields, dict) else dict(zip(fields[0::2], fields[1::2], strict=True))
    except (TypeError, ValueError):
        return False
    return bool(pairs.get(b"s") == PAYLOAD)


def _is_forbidden(answer: Any) -> bool:
    text = f"{getattr(answer, 'status_code', None) or ''} {type(answer).__name__} {answer}"
    return "NOPERM" in text or "NoPermission" in text or "no permissions" in text


def _place(url: str) -> str:
    address = redis_address(url)
    return address.socket or ",".join(f"{host}:{port}" for host, port in address.places)


def _size(number: int) -> str:
    return f"{number / 1e6:,.0f} MB" if number < 10e9 else f"{number / 1e9:,.1f} GB"


def _copies(copies: Iterable[Partitioning | None]) -> str:
    texts: Sequence[str] = sorted({"none" if each is None else each.text for each in copies})
    return ", ".join(texts)
