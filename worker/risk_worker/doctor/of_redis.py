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
from risk_worker.doctor import certificates
from risk_worker.doctor.check import CONNECTION, Check, Finding, Link, failure, ok, skipped, warning
from risk_worker.stream import partitions as in_use
from risk_worker.stream import permissions, server
from risk_worker.stream.server import NO_EVICTION, ServerFacts
from risk_worker.stream.workers import LEASE_S, registered_workers

WORKER: Final = "worker"
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

    def __init__(self, url: str, settings: Settings, role: str = WORKER) -> None:
        """role: one of permissions.roles(), which the user of Redis has to fit."""
        self._url = url
        self._settings = settings
        self._role = role
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
                Check("tls", self.tls),
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

    def tls(self) -> Iterator[Finding]:
        """What crosses a network is encrypted, and until when the certificates are valid."""
        yield encrypted(self._url)
        yield from certificates.of_redis(self.client)

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
        settings = self._settings
        seen = in_use.look_at_all(self.client, settings.keyspace, settings.partitions)
        caps = seen.caps(settings.stream_maxlen, settings.partitions)
        entry_bytes, held = self._entry_bytes(seen.entries)
        for each in self._servers():
            of_it = [number for number in each.partitions if number in caps]
            entries = sum(caps[number] for number in of_it)
            needs = entries * entry_bytes
            full = f"full streams ({entries:,} entries of {entry_bytes} bytes) take {_size(needs)}"
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
                of_namespace = len(caps) // len(settings.keyspace.namespaces)
                fits = max(0, room) // entry_bytes * of_namespace // max(1, len(of_it))
                yield warning(
                    f"{full}, and {each.address} has {_size(max(0, room))} for them: it refuses writes "
                    "before they are full",
                    f"Raise maxmemory, or lower RISK_STREAM_MAXLEN to {fits:,}",
                )
            else:
                yield ok(f"{full}; {each.address} has {_size(room)} for them")

    def commands(self) -> Iterator[Finding]:
        """The user may do what its role needs; and, of a worker, a round trip that leaves nothing behind."""
        for each in self._servers():
            if each.away or not each.partitions:
                continue
            partition = each.partitions[0]
            found = rights(self.client, self._url, self._role, self._settings, partition, each.address)
            yield found
            if found.level == "ok" and self._role == WORKER:
                yield from probe(self.client, self._settings.keyspace.keys(partition), each.address)

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
        here, keyspace = self._settings.partitions, self._settings.keyspace
        for one in keyspace.each:
            seen = in_use.look(self.client, one, here)
            of = f" of namespace {one.namespace}" if keyspace.is_several else ""
            if seen.agreed is None:
                yield warning(
                    f"nothing is agreed on yet about the number of partitions{of}",
                    f"The first worker or trader makes it RISK_PARTITIONS, which is {here} here",
                )
                continue
            if here != seen.agreed.partitions:
                yield warning(
                    f"RISK_PARTITIONS is {here} here, and the deployment has {seen.agreed.partitions} "
                    f"partitions{of}, which is what counts",
                    "Correct the environment, or change the deployment: riskstream partitions",
                )
            if not seen.uniform:
                yield warning(
                    f"not all partitions{of} have the same copy of what is agreed on: "
                    f"{_copies(seen.copies.values())}",
                    "A worker writes them anew within seconds: start one, or look at its log",
                )
            elif here == seen.agreed.partitions:
                yield ok(f"all {seen.agreed.partitions} partitions{of} have the same copy of their number")

    def _servers(self) -> list[ServerFacts]:
        if self._facts is None:
            settings = self._settings
            keyspace = settings.keyspace
            numbers = in_use.look_at_all(self.client, keyspace, settings.partitions).numbers
            self._facts = server.look(self.client, [keyspace.keys(each) for each in numbers], keyspace)
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

    def __init__(self, url: str, settings: Settings, role: str = WORKER) -> None:
        """role: one of permissions.roles(), which the user of Redis has to fit."""
        self._url = url
        self._settings = settings
        self._role = role
        self._separate = url != settings.redis_url
        self.client: RedisClient = redis_client(
            url, answer_timeout_s=ANSWER_S, connect_timeout_s=ANSWER_S, name="RQ_REDIS_URL"
        )

    def link(self) -> Link:
        """All of them."""
        checks = [Check(CONNECTION, self.connection)]
        if self._separate:
            checks.append(Check("tls", self.tls))
            checks.append(Check("writes", self.writes))
        checks.append(Check("commands", self.commands))
        checks += [Check("suspended", self.suspended), Check("workers", self.workers)]
        return Link("rq", checks, self.client.close)

    def connection(self) -> Iterator[Finding]:
        """It answers, and takes the password."""
        found = list(connection(self.client, self._url))
        if not self._separate and found[0].level == "failure":
            found = [skipped("it is the Redis with the streams")]
        yield from found

    def tls(self) -> Iterator[Finding]:
        """As that of the streams."""
        yield encrypted(self._url)
        yield from certificates.of_redis(self.client)

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

    def commands(self) -> Iterator[Finding]:
        """The user may do what its role needs with RQ's keys."""
        yield rights(self.client, self._url, self._role, self._settings, None, _place(self._url))

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


def encrypted(url: str) -> Finding:
    """What crosses a network is encrypted, and the server is who it says."""
    address, scheme = redis_address(url), url.partition("://")[0]
    far = [host for host, _ in address.places if not is_here(host)]
    if address.socket or not far:
        return ok("it is on this machine, so nothing crosses a network")
    if not address.tls:
        return warning(
            f"the connection to {far[0]} is not encrypted: passwords and snapshots cross the network as they "
            "are",
            f"{scheme.replace('redis', 'rediss')}:// instead of {scheme}://, where the server has TLS: "
            "docs/operate/tls.md",
        )
    if address.options.get("ssl_cert_reqs") == "none":
        return warning(
            f"the connection to {far[0]} is encrypted, and its certificate is not verified: any server is "
            "taken for it",
            "Leave ssl_cert_reqs out; ssl_ca_certs=FILE names the authority",
        )
    if address.options.get("ssl_check_hostname") is False:
        return warning(
            f"the connection to {far[0]} is encrypted, and the name in its certificate is not verified: any "
            "server with a certificate of that authority is taken for it",
            "Leave ssl_check_hostname out; the certificate needs the name by which you connect",
        )
    return ok(f"the connection to {far[0]} is encrypted and verified")


def rights(
    client: RedisClient, url: str, role: str, settings: Settings, partition: int | None, address: str
) -> Finding:
    """Whether the user may do all that a role needs. partition: one that the server has; None: RQ's keys.

    Raises one of REDIS_ERRORS.
    """
    user = redis_address(url).options.get("username", "default")
    rq = partition is None
    try:
        lacking = permissions.lacking(client, role, settings.keyspace, partition or 0, rq=rq)
    except permissions.NotAsked as error:
        return warning(str(error), f"ACL SETUSER {user} +multi")
    of_what = "with RQ's keys" if rq else "with the streams"
    if not lacking:
        return ok(f"the user {user} of {address} may do {of_what} what the role {role} needs")
    shown = ", ".join(
        f"+{name}" + (f" on {keys[0]}" if keys else "") + (f" and {len(keys) - 1} more" if keys[1:] else "")
        for name, keys in lacking.items()
    )
    return failure(
        f"the user {user} of {address} may not do {of_what} all that the role {role} needs: {shown}",
        f"Give it the line of {role} in ops/redis/users.acl (docs/operate/redis-users.md)",
    )


PAYLOAD: Final = b'{"probe":true}'


def probe(client: RedisClient, keys: Keys, address: str) -> Iterator[Finding]:
    """Write an entry into a stream of its own and read it back; the stream is removed at once."""
    stream = f"{keys.probe}:{token_hex(4)}"
    commands: tuple[tuple[Any, ...], ...] = (
        ("XADD", stream, "*", "s", PAYLOAD),
        ("EXPIRE", stream, KEPT_S),
        ("XRANGE", stream, "-", "+", "COUNT", 1),
        ("DEL", stream),
    )
    answers = ask_each(client, [(stream, words) for words in commands])
    refused = {
        words[0].lower(): answer
        for words, answer in zip(commands, answers, strict=True)
        if isinstance(answer, Exception)
    }
    away = next((answer for answer in refused.values() if isinstance(answer, AWAY)), None)
    if away is not None:
        yield failure(f"{address} does not answer: {away}", "Look whether it runs")
    elif refused:
        command, answer = next(iter(refused.items()))
        yield failure(f"{address} refuses {command}: {answer}")
    elif not _came_back(answers[2]):
        yield failure(f"what was written to {address} was not read back: {str(answers[2])[:100]}")
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


def _place(url: str) -> str:
    address = redis_address(url)
    return address.socket or ",".join(f"{host}:{port}" for host, port in address.places)


def _size(number: int) -> str:
    return f"{number / 1e6:,.0f} MB" if number < 10e9 else f"{number / 1e9:,.1f} GB"


def _copies(copies: Iterable[Partitioning | None]) -> str:
    texts: Sequence[str] = sorted({"none" if each is None else each.text for each in copies})
    return ", ".join(texts)
