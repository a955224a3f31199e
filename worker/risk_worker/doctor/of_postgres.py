"""Postgres, and what Redis and Postgres have to agree on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from secrets import token_hex
from time import monotonic
from typing import Final

import psycopg

from risk_producer.contract.identity import difference
from risk_producer.contract.statements import statements
from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings, mask
from risk_producer.transport.servers import ask_each
from risk_worker.database import connection as database
from risk_worker.database import extension, migrations, privileges
from risk_worker.database.deployment import identity_of
from risk_worker.database.sqlstate import Classified, classify_error
from risk_worker.doctor import certificates
from risk_worker.doctor.check import CONNECTION, Check, Finding, Link, failure, ok, warning
from risk_worker.doctor.of_redis import WORKER, Streams, apart, is_here
from risk_worker.recovery import partitioning
from risk_worker.stream import partitions as in_use

VERSION_MIN: Final = 140_000

_STORING: Final = ("privileges", "probe")
_NOT_OF: Final = {
    "trader": ("migrations", "timescaledb", *_STORING),
    "exporter": _STORING,
    "reader": _STORING,
}
"""Role -> checks of what it does not do in Postgres."""
_PURPOSE: Final = database.Purpose(
    "riskstream-doctor", {"statement_timeout": "3s", "lock_timeout": "1s", "jit": "off"}
)
_SQL: Final = statements(__package__, "doctor.sql")


class Database:
    """The checks of Postgres."""

    def __init__(self, url: str, role: str = WORKER) -> None:
        """role: what the program is for; checks are left out that are not of its work."""
        self._url = url
        self._left_out = _NOT_OF.get(role, ())
        self._connection: database.Connection | None = None
        self.ahead_s: float | None = None
        """By how much its clock is ahead of the one here; None: it was not asked."""

    def link(self) -> Link:
        """All of them; the first one shows whether it can be connected to."""
        checks = [
            Check(CONNECTION, self.connection),
            Check("tls", self.tls),
            Check("version", self.version),
            Check("writes", self.writes),
            Check("migrations", self.migrations),
            Check("privileges", self.privileges),
            Check("timescaledb", self.timescaledb),
            Check("probe", self.probe),
            Check("clock", self.clock),
        ]
        return Link("postgres", [each for each in checks if each.name not in self._left_out], self.close)

    def connected(self) -> database.Connection:
        """The connection. Raises psycopg.Error and ConfigurationError."""
        if self._connection is None or self._connection.closed:
            self._connection = database.connect(self._url, _PURPOSE)
        return self._connection

    def close(self) -> None:
        """Give it back."""
        if self._connection is not None:
            self._connection.close()

    def connection(self) -> Iterator[Finding]:
        """It answers, and takes the password."""
        began = monotonic()
        try:
            connection = self.connected()
        except psycopg.Error as error:
            found = classify_error(error)
            yield failure(f"{mask(self._url)}: {found.message}", self._todo(found))
            return
        except ConfigurationError as error:
            yield failure(f"{mask(self._url)}: {error}")
            return
        info = connection.info
        pooler = ", through a pooler in transaction mode" if connection.pooled else ""
        yield ok(
            f"{mask(self._url)} answers in {1000 * (monotonic() - began):.0f} ms, with the connection, as "
            f"role {info.user}{pooler}"
        )

    def _todo(self, found: Classified) -> str:
        """What to do where it cannot be connected to. libpq says only that a certificate is not accepted."""
        reason = found.reason
        if "certificate verify failed" in found.message:
            reason = f"the certificate of the server: {certificates.why_refused(self._url)}"
        return reason[:1].upper() + reason[1:]

    def tls(self) -> Iterator[Finding]:
        """What crosses a network is encrypted, the server is who it says, and until when its certificate is
        valid."""
        connection = self.connected()
        info, encrypted = connection.info, connection.pgconn.ssl_in_use
        options = {each.keyword.decode(): (each.val or b"").decode() for each in connection.pgconn.info}
        yield _tls(info.host, options.get("sslmode", ""), encrypted=encrypted)
        if encrypted:
            yield certificates.of_postgres(options, info.host, info.hostaddr or info.host, info.port)

    def version(self) -> Iterator[Finding]:
        """14 or newer."""
        number = self.connected().info.server_version
        shown = f"Postgres {number // 10_000}.{number % 10_000}"
        if number < VERSION_MIN:
            yield failure(f"{shown} is too old", "riskstream needs Postgres 14 or newer")
        else:
            yield ok(shown)

    def writes(self) -> Iterator[Finding]:
        """It is a primary, and not read-only."""
        [(standby, read_only)] = self.connected().execute(_SQL["is_standby"]).fetchall()
        if standby:
            yield failure("it is a standby", "Name the primary in POSTGRES_URL, or all hosts: h1,h2")
        elif read_only:
            yield failure(
                "it takes no writes: default_transaction_read_only is on",
                "Turn it off, for the server, the database or the role",
            )
        else:
            yield ok("it takes writes")

    def migrations(self) -> Iterator[Finding]:
        """The tables are those of this version."""
        found = migrations.compare(self.connected())
        if found.pending:
            yield failure(
                f"{len(found.pending)} migrations are not applied: {', '.join(found.pending[:5])}",
                "riskstream migrate up",
            )
        if found.unknown:
            yield warning(
                f"{len(found.unknown)} migrations are of a newer version: {', '.join(found.unknown[:5])}",
                "Use that version here, too",
            )
        if not found.pending and not found.unknown:
            yield ok(f"{found.number} migrations, all applied")

    def privileges(self) -> Iterator[Finding]:
        """The role may do what a worker does."""
        found = privileges.look(self.connected())
        if found.missing_tables:
            yield failure(
                f"tables are missing: {', '.join(found.missing_tables)}",
                "riskstream migrate up; where they were dropped, restore them from a backup",
            )
        for grant in found.missing_grants:
            yield failure(f"the role {found.role} lacks a right that a worker needs", f"{grant};")
        if not found.missing_tables and not found.missing_grants:
            yield ok(f"the role {found.role} may do what a worker does")

    def timescaledb(self) -> Iterator[Finding]:
        """What there is of it."""
        found = extension.look(self.connected())
        if found.version is not None and found.hypertable:
            edition = "Apache" if found.apache else "Community"
            yield ok(f"TimescaleDB {found.version}, {edition} edition; history is a hypertable")
            if found.apache:
                yield warning(
                    "the Apache edition compresses nothing, and keeps no sums by itself",
                    "timescaledb.license = timescale, where that licence is accepted",
                )
        elif found.version is not None:
            yield warning(
                f"TimescaleDB {found.version} is in this database, and history is a plain table",
                "riskstream timescale enable",
            )
        elif found.loaded:
            yield warning(
                "TimescaleDB is loaded, and not used in this database", "riskstream timescale enable uses it"
            )
        elif found.available:
            yield warning(
                "TimescaleDB is installed, and not preloaded: history is a plain table",
                "shared_preload_libraries = 'timescaledb', a restart of Postgres, riskstream timescale "
                "enable; or leave it",
            )
        else:
            yield ok("plain tables; this server has no TimescaleDB")

    def probe(self) -> Iterator[Finding]:
        """A row goes in; the transaction is taken back."""
        connection = self.connected()
        with connection.transaction(force_rollback=True):
            inserted = connection.execute(_SQL["probe"], {"entry_id": token_hex(8)}).rowcount
        if inserted != 1:
            yield failure("a row that was inserted is not there", "Look for a trigger or a rule on it")
        else:
            yield ok("a row went in, and nothing of it is left")

    def clock(self) -> Iterator[Finding]:
        """Against the one here."""
        connection = self.connected()
        began = datetime.now(UTC).timestamp()
        [(now,)] = connection.execute(_SQL["now"]).fetchall()
        ended = datetime.now(UTC).timestamp()
        self.ahead_s = now - (began + ended) / 2
        yield apart("Postgres", self.ahead_s, (ended - began) / 2)


def _tls(host: str, mode: str, *, encrypted: bool) -> Finding:
    """For a connection to this host. mode: libpq's sslmode."""
    if host.startswith("/") or is_here(host):
        return ok("it is on this machine, so nothing crosses a network")
    todo = "sslmode=verify-full and sslrootcert=FILE in POSTGRES_URL"
    if not encrypted:
        why = f"; with sslmode {mode} that is no error" if mode in ("allow", "prefer") else ""
        return warning(
            f"the connection to {host} is not encrypted: passwords and snapshots cross the network as they "
            f"are{why}",
            f"{todo}, where the server has TLS: docs/operate/tls.md",
        )
    if mode == "verify-full":
        return ok(f"the connection to {host} is encrypted and verified ({mode})")
    if mode == "verify-ca":
        return warning(
            f"the connection to {host} is encrypted, and the name in its certificate is not verified "
            "(sslmode verify-ca): any server with a certificate of that authority is taken for it",
            "sslmode=verify-full in POSTGRES_URL; the certificate needs the name by which you connect",
        )
    return warning(
        f"the connection to {host} is encrypted, and its certificate is not verified (sslmode {mode}): any "
        "server is taken for it",
        todo,
    )


class Both:
    """What Redis and Postgres have to agree on, where both can be used."""

    def __init__(self, redis_url: str, database_url: str, settings: Settings) -> None:
        self._streams = Streams(redis_url, settings)
        self._database = Database(database_url)
        self._settings = settings

    def link(self) -> Link:
        """All of them."""
        checks = [
            Check("database", self.database),
            Check("partitions", self.partitions),
            Check("clocks", self.clocks),
        ]
        return Link("both", checks, self.close)

    def close(self) -> None:
        """Give the connections back."""
        self._streams.client.close()
        self._database.close()

    def database(self) -> Iterator[Finding]:
        """The streams are stored in this database."""
        seen = in_use.look_at_all(self._streams.client, self._settings.keyspace, self._settings.partitions)
        names = [self._settings.keyspace.keys(number).database for number in seen.numbers]
        held = ask_each(self._streams.client, [(name, ("GET", name)) for name in names])
        identity = identity_of(self._database.connected())
        others = [
            text
            for name, value in zip(names, held, strict=True)
            if isinstance(value, bytes) and (text := difference(name, value, identity))
        ]
        if others:
            what, _, todo = others[0].partition(". ")
            yield failure(what, todo)
        elif any(isinstance(value, bytes) for value in held):
            yield ok("the streams in Redis are stored in this database")
        else:
            yield ok("the streams in Redis are of no database yet: the first worker makes them this one's")

    def partitions(self) -> Iterator[Finding]:
        """Both know the same number of partitions."""
        stored = partitioning.stored(self._database.connected())
        keyspace = self._settings.keyspace
        for one in keyspace.each:
            seen = in_use.look(self._streams.client, one, self._settings.partitions)
            of = f" of namespace {one.namespace}" if keyspace.is_several else ""
            if seen.agreed is None or stored is None:
                yield ok(f"the number of partitions{of} is not agreed on in both yet: a worker sees to it")
            elif partitioning.joined(stored, keyspace, seen).numbers != seen.agreed.numbers:
                yield warning(
                    f"Redis has {seen.agreed.text} as the number of partitions{of}, and Postgres "
                    f"{stored.text}",
                    "A worker makes them the same within seconds: start one, or look at its log",
                )
            else:
                yield ok(f"both know {seen.agreed.partitions} partitions{of}")

    def clocks(self) -> Iterator[Finding]:
        """The two clocks, against each other."""
        for _ in (*self._streams.clock(), *self._database.clock()):
            pass
        if self._streams.ahead_s is None or self._database.ahead_s is None:
            return
        between = self._database.ahead_s - self._streams.ahead_s
        if abs(between) > 1.0:
            yield warning(
                f"the clocks of Postgres and Redis are {abs(between):.1f} s apart",
                "Let both follow the same time server",
            )
        else:
            yield ok("the clocks of Redis and Postgres are within 1 s")
