"""Certificates of servers: until when they are valid, and why that of a Postgres is not accepted."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from psycopg.pq import Conninfo

from risk_producer import tls
from risk_producer.settings.urls import postgres_parameters
from risk_producer.tls import Encryption
from risk_producer.transport.connect import RedisClient, encryption_of
from risk_worker.doctor.check import Finding, ok, warning

SOON: Final = timedelta(days=14)
"""Less than this is worth a warning: renewing needs people."""
ANSWER_S: Final = 2.0

_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
"""By which a client of Postgres asks for TLS; the server answers S, or N where it has none."""
_VERIFIES: Final = ("verify-ca", "verify-full")


def of_redis(client: RedisClient) -> Iterator[Finding]:
    """Of each server that a connection is encrypted to."""
    for each in encryption_of(client):
        yield validity(each, datetime.now(UTC))


def validity(seen: Encryption, now: datetime) -> Finding:
    """Until when a certificate is valid."""
    if seen.expires is None:
        return ok(f"{seen.place} speaks {seen.protocol}; when its certificate expires is not known here")
    left = seen.expires - now
    until = f"valid until {seen.expires:%Y-%m-%d %H:%M} UTC"
    if left < SOON:
        in_time = f"for {left.days} days" if left >= timedelta(days=1) else "for less than a day"
        return warning(
            f"{seen.place} speaks {seen.protocol}, and its certificate is {until}, {in_time}",
            "Give the server a new one before that, while everything runs: docs/operate/tls.md",
        )
    return ok(f"{seen.place} speaks {seen.protocol}; its certificate is {until}, for {left.days} days")


def of_postgres(options: Mapping[str, str], host: str, address: str, port: int) -> Finding:
    """Of the server that a connection is encrypted to, by a handshake of its own.

    options: libpq's, as they are in force. address: where host was found.
    """
    try:
        return validity(_handshake(options, host, address, port), datetime.now(UTC))
    except (OSError, tls.FilesUnusable) as error:
        return warning(f"the certificate of {host}:{port} could not be looked at: {error}")


def why_refused(url: str) -> tls.Problem:
    """Why the certificate of a Postgres at this URL is not accepted, which libpq does not say.

    Raises ConfigurationError.
    """
    defaults = {each.keyword: each.val for each in Conninfo.get_defaults()}
    options = {
        **{key.decode(): value.decode() for key, value in defaults.items() if value},
        **postgres_parameters(url),
    }
    hosts = options.get("host", "localhost").split(",")
    addresses = options.get("hostaddr", ",".join(hosts)).split(",")
    ports = options.get("port", "5432").split(",")
    for at, address in enumerate(addresses):
        host = hosts[at] if at < len(hosts) else address
        try:
            _handshake(options, host, address, int(ports[at % len(ports)]))
        except ssl.SSLCertVerificationError as error:
            return tls.of_server(error, host, tls.POSTGRES)
        except tls.FilesUnusable as error:
            return error.problem
        except OSError:
            continue
    if options.get("sslrootcert") == "system":
        return tls.Problem(
            "Python trusts it, and the OpenSSL of libpq here does not know the authorities of the system",
            "name their file in the environment: SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
        )
    return tls.Problem(
        "Python trusts it, and libpq does not",
        "look at it: openssl s_client -starttls postgres -connect HOST:PORT -CAfile FILE",
    )


def _handshake(options: Mapping[str, str], host: str, address: str, port: int) -> Encryption:
    """Raises OSError, of which ssl.SSLCertVerificationError is one, and FilesUnusable."""
    authorities = options.get("sslrootcert") or _default_authorities()
    context = tls.context(tls.POSTGRES, authorities=None if authorities == "system" else authorities)
    context.check_hostname = options.get("sslmode") == "verify-full"
    if authorities is None and options.get("sslmode") not in _VERIFIES:
        context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=ANSWER_S) as plain:
        plain.sendall(_SSL_REQUEST)
        if plain.recv(1) != b"S":
            raise ConnectionError("it has no TLS")
        with context.wrap_socket(plain, server_hostname=host) as encrypted:
            return Encryption.of(f"{host}:{port}", encrypted)


def _default_authorities() -> str | None:
    """libpq's."""
    path = Path.home() / ".postgresql" / "root.crt"
    return str(path) if path.exists() else None
