"""What is wrong with TLS, in words: why a certificate is not accepted, and what to do about it.

Python's ssl speaks to Redis and libpq to Postgres, and both say it in OpenSSL's words. Nothing here connects.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self


class Problem(NamedTuple):
    """What is wrong, and what to do about it: each a part of a sentence, without an end."""

    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.what}; {self.todo}"


class Encryption(NamedTuple):
    """What is known of TLS to a server, from a connection to it."""

    place: str
    """host:port"""
    protocol: str
    """As TLSv1.3."""
    expires: datetime | None
    """When the certificate of the server expires; None: it was not verified, and is not read then."""

    @classmethod
    def of(cls, place: str, encrypted: ssl.SSLSocket) -> Self:
        """Of a connection that is open."""
        until: Any = (encrypted.getpeercert() or {}).get("notAfter")
        expires = None if until is None else datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC)
        return cls(place, encrypted.version() or "TLS", expires)


class FilesUnusable(Exception):
    """TLS cannot be begun with these files; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Names(NamedTuple):
    """How the settings of a server call the files of a client."""

    authorities: str
    certificate: str
    key: str
    passphrase: str


REDIS: Final = Names("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password")
POSTGRES: Final = Names("sslrootcert", "sslcert", "sslkey", "sslpassword")

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME: Final = 62
_OTHER_ADDRESS: Final = 64
"""Codes of OpenSSL's verification (x509_vfy.h)."""


def of_server(error: ssl.SSLCertVerificationError, host: str, names: Names) -> Problem:
    """Why the certificate of the server at host is not accepted."""
    code = error.verify_code
    says = f"certificate verify failed: {str(error.verify_message).rstrip('.')}"
    if code == _EXPIRED:
        return Problem(f"it has expired, or that of its authority has ({says})", "give the server a new one")
    if code == _NOT_YET_VALID:
        return Problem(f"it is not valid yet ({says})", "compare the clocks of both machines")
    if code in _UNKNOWN_AUTHORITY:
        return Problem(
            f"no authority that is known here has signed it ({says})",
            f"name the file with the certificate of its authority in the URL: {names.authorities}=FILE",
        )
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        kind = "DNS" if code == _OTHER_NAME else "IP"
        return Problem(
            f"it is made out to another name ({says})",
            f"connect by a name that stands in it, or give the server one with subjectAltName={kind}:{host}",
        )
    return Problem(says, "look at it: openssl x509 -noout -text -in FILE")


def of_client(says: str, names: Names) -> Problem | None:
    """Why a server does not accept this client, from the alert that it sent; None: it is no such alert."""
    text = says.replace("_", " ").lower()
    for pattern, what, todo in _ALERTS:
        if re.search(pattern, text):
            return Problem(what, todo.format(**names._asdict()))
    return None


_ALERTS: Final = (
    (
        "alert certificate required|requires a valid client certificate",
        "it asks for a certificate of this client",
        "name one and its key in the URL: {certificate}=FILE and {key}=FILE",
    ),
    (
        "alert unknown ca",
        "it does not know the authority that signed the certificate of this client",
        "name one in {certificate} that the server's authority has signed, or let the server know this one's",
    ),
    (
        "alert certificate expired",
        "the certificate of this client has expired",
        "put a new one and its key into the files that {certificate} and {key} name: the next connection "
        "takes them",
    ),
    (
        "alert (bad certificate|certificate (revoked|unknown)|unsupported certificate|access denied)",
        "it refuses the certificate of this client",
        "look at its log; put another one and its key into the files that {certificate} and {key} name",
    ),
    (
        "alert handshake failure",
        "it found nothing that both sides can do, or asks for a certificate of this client",
        "look at its log; name a certificate and its key in the URL: {certificate}=FILE and {key}=FILE",
    ),
    (
        "alert protocol version|unsupported protocol|no protocols available",
        "it and this client have no version of TLS in common",
        "let both have TLS 1.2 or 1.3",
    ),
)


def of_libpq(says: str) -> tuple[str, Problem] | None:
    """(the line of libpq's message that says so, what is wrong with TLS to Postgres); None: it is not TLS."""
    for line in map(str.strip, says.splitlines()):
        for pattern, what, todo in _LIBPQ:
            if re.search(pattern, line):
                return line, Problem(what, todo)
        refused = of_client(line, POSTGRES)
        if refused is not None:
            return line, Problem(f"the server does not accept this client: {refused.what}", refused.todo)
        # Where TLS was refused too, the reason is another one.
        if "SSL encryption" not in says and re.search(_NEEDS_TLS, line):
            return line, Problem(
                "from here it lets this user in with TLS only, or not at all",
                "check POSTGRES_URL and pg_hba.conf: where that says hostssl, write sslmode=verify-full",
            )
    return None


_NEEDS_TLS: Final = r"no pg_hba\.conf entry for .*, (no encryption|SSL off)|FATAL: +SSL required"
_LIBPQ: Final = (
    (
        "certificate verify failed",
        "the certificate of the server is not accepted: it is not valid now, or no authority in sslrootcert "
        "has signed it",
        "run riskstream doctor, which names the reason",
    ),
    (
        "does not match host name|host name must be specified for a verified SSL connection",
        "the certificate of the server is made out to another name",
        "connect by a name that stands in it, or give the server one with this name as subjectAltName",
    ),
    (
        'root certificate file "|locate root certificate file',
        "the file with the certificates of the authorities cannot be used",
        "name a PEM file that this user may read in the URL: sslrootcert=FILE",
    ),
    (
        "may not be used with sslrootcert=system",
        "the authorities of the system are trusted for sslmode=verify-full alone",
        "write sslmode=verify-full in the URL",
    ),
    (
        "private key file|could not load private key",
        "the key of this client cannot be used",
        "name the PEM file with the key of the certificate, which this user alone may read (0600), in the "
        "URL: sslkey=FILE; and its passphrase, where it has one: sslpassword=…",
    ),
    (
        'certificate file "',
        "the certificate of this client cannot be used",
        "name a PEM file that this user may read in the URL: sslcert=FILE",
    ),
    (
        "server does not support SSL",
        "the server has no TLS, and sslmode asks for it",
        "set ssl = on in postgresql.conf, with ssl_cert_file and ssl_key_file; or write sslmode=disable "
        "where nothing crosses a network",
    ),
    (
        "invalid response to SSL negotiation|wrong version number",
        "what answers is not Postgres",
        "look which server answers at this host and port",
    ),
)


def context(
    names: Names,
    *,
    authorities: str | None = None,
    folder: str | None = None,
    data: str | bytes | None = None,
    certificate: str | None = None,
    key: str | None = None,
    passphrase: str | None = None,
) -> ssl.SSLContext:
    """What a client begins TLS with, from files that are read now. Raises FilesUnusable.

    authorities, folder, data: whom to trust, and no others; none of them: those that the system trusts.
    It never asks for a passphrase at the terminal, as OpenSSL would.
    """
    try:
        made = ssl.create_default_context(cafile=authorities, capath=folder, cadata=data)
    except (OSError, ValueError) as error:
        raise FilesUnusable(_of_authorities(error, authorities, names)) from None
    if certificate is not None or key is not None:
        try:
            made.load_cert_chain(certificate or "", key, password=passphrase or "")
        except (OSError, ValueError) as error:
            raise FilesUnusable(_of_pair(error, certificate, key, names, passphrase)) from None
    return made


def has_passphrase(key: str | Path) -> bool:
    """Whether the key in a PEM file is encrypted; False where it cannot be read."""
    try:
        return b"ENCRYPTED" in Path(key).read_bytes()
    except OSError:
        return False


def _of_authorities(error: Exception, path: str | None, names: Names) -> Problem:
    if path is None:
        return Problem(f"the authorities cannot be read: {_reason(error)}", f"correct {names.authorities}")
    return _unreadable(path, names.authorities) or Problem(
        f"the file {path} that {names.authorities} names holds no certificate",
        "name the PEM file of the authority, which has the line -----BEGIN CERTIFICATE-----",
    )


def _of_pair(
    error: Exception, certificate: str | None, key: str | None, names: Names, passphrase: str | None
) -> Problem:
    if certificate is None:
        return Problem(f"{names.key} is given without {names.certificate}", "name both")
    for path, option, kind in (
        (certificate, names.certificate, "CERTIFICATE"),
        (key or certificate, names.key, "PRIVATE KEY"),
    ):
        problem = _unreadable(path, option)
        if problem is not None:
            return problem
        if f"{kind}-----".encode() not in Path(path).read_bytes():
            return Problem(
                f"the file {path} holds no {kind.lower()}",
                f"name the PEM file with it in {option}: one of its lines ends in {kind}-----",
            )
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return Problem(
            f"the key in {key or certificate} is not the one of the certificate in {certificate}",
            "put both files in place together",
        )
    if has_passphrase(key or certificate):
        return Problem(
            f"the key in {key or certificate} is encrypted, and {names.passphrase} is "
            f"{'not its passphrase' if passphrase else 'not given'}",
            f"give the passphrase in {names.passphrase}, or a key without one that this user alone may read",
        )
    return Problem(
        f"the certificate in {certificate} cannot be used with its key: {_reason(error)}",
        "look at both files: openssl x509 -noout -text -in FILE, openssl pkey -noout -in FILE",
    )


def _unreadable(path: str, option: str) -> Problem | None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        return Problem(
            f"the file {path} that {option} names cannot be read: {error.strerror}",
            "let it be a file that this user may read",
        )
    return None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
