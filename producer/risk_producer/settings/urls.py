"""URLs of Postgres, read strictly; and any URL, shown without its secrets. Those of Redis: see address.py.

A Postgres URL is read as libpq reads it, which is not how urllib does: a password may hold # and ?, and hosts
and ports may be lists. Nothing here connects, needs a driver, or puts a part of a URL that could belong to a
password into a message.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from risk_producer.errors import ConfigurationError

MASK: Final = "***"

_SECRET: Final = frozenset(
    {
        *("password", "sslpassword", "ssl_password", "sentinel_password"),
        *("oauth_client_secret", "scram_client_key"),
    }
)
# Options whose values a message may show.
_HARMLESS_NAMES: Final = (
    "host hostaddr port dbname user passfile channel_binding connect_timeout client_encoding options "
    "application_name fallback_application_name keepalives keepalives_idle keepalives_interval "
    "keepalives_count tcp_user_timeout replication gssencmode gssdelegation sslmode ssl sslnegotiation "
    "sslcompression sslcert sslkey sslcertmode sslrootcert sslcrl sslcrldir sslsni requirepeer require_auth "
    "ssl_min_protocol_version ssl_max_protocol_version min_protocol_version max_protocol_version krbsrvname "
    "gsslib service servicefile target_session_attrs load_balance_hosts sslkeylogfile "
    "db username sentinel_username client_name socket_timeout socket_connect_timeout socket_read_size "
    "socket_keepalive "
    "retry_on_timeout retry_on_error max_connections health_check_interval protocol legacy_responses "
    "decode_responses encoding encoding_errors ssl_keyfile ssl_certfile ssl_cert_reqs ssl_ca_certs "
    "ssl_ca_path ssl_check_hostname ssl_min_version ssl_ciphers ssl_include_verify_flags "
    "ssl_exclude_verify_flags timeout"
)
_HARMLESS: Final = frozenset(_HARMLESS_NAMES.split())
_HOSTS: Final = re.compile(r"(\[[^\[\]]*\]|[^:,\[\]]*)(:\d*)?(,(\[[^\[\]]*\]|[^:,\[\]]*)(:\d*)?)*")
_POSTGRES_SCHEMES: Final = ("postgresql", "postgres")
_SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_ESCAPES: Final = "in a user or password / is written %2F, @ %40, : %3A, % %25"


def mask(url: str) -> str:
    """The URL as a message may show it: its password, and whatever could be a part of one, is replaced.

    What is before the last @ counts as user and password, so that a password which was not escaped is hidden
    as a whole. Otherwise the URL is unchanged.
    """
    scheme, found, rest = url.partition("://")
    if not found:
        return MASK if url else ""
    userinfo, at, tail = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if any(f"{secret}=" in unquote(userinfo).lower() for secret in _SECRET):  # the @ is within an option
        return f"{scheme}://{MASK}"
    if re.search(r"[/?#]", user):  # the @ is not the end of a user: hide all before it
        user, colon = "", ":"
    shown = f"{user}{colon}{MASK if colon else ''}{at}"
    authority, mark, query = tail.partition("?")
    hosts, _, _ = authority.partition("/")
    if not at and not _HOSTS.fullmatch(hosts):
        return f"{scheme}://{MASK}"
    query, hash_mark, _ = query.partition("#")
    authority, hash_mark_before, _ = authority.partition("#")
    if hash_mark_before:
        return f"{scheme}://{shown}{authority}#{MASK}"
    return f"{scheme}://{shown}{authority}{mark}{_mask_query(query)}" + (f"#{MASK}" if hash_mark else "")


def _mask_query(query: str) -> str:
    """Hide the query from the first option on that is secret or not known: what looks like another option
    behind it may be a part of its value, where an & was not escaped."""
    shown: list[str] = []
    for piece in query.split("&"):
        name, equals, _ = piece.partition("=")
        if piece and not (unquote(name) in _HARMLESS and equals):
            known = equals and (unquote(name) in _SECRET or re.fullmatch(r"[a-z_]{1,40}", name))
            shown.append(f"{name}={MASK}" if known else MASK)
            break
        shown.append(piece)
    return "&".join(shown)


def unescape(text: str, name: str, what: str) -> str:
    """Resolve percent-escapes. name: of the setting. Raises ConfigurationError."""
    text = text.strip(" ")  # as libpq does
    if " " in text:
        raise ConfigurationError(f"{name}: a blank in the {what} is written %20")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ConfigurationError(
            f"{name}: a % in the {what} is not followed by two hexadecimal digits; {_ESCAPES}"
        )
    try:
        resolved = unquote_to_bytes(text).decode()
    except UnicodeError:
        raise ConfigurationError(f"{name}: the {what} is not UTF-8") from None
    if "\0" in resolved:
        raise ConfigurationError(f"{name}: the {what} contains a zero byte")
    return resolved


class _PostgresUrl(NamedTuple):
    """The parts of a URL as they are written; None: not there."""

    userinfo: str | None
    hosts: str
    dbname: str | None
    query: str | None


def _split_postgres(url: str, name: str) -> _PostgresUrl:
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _POSTGRES_SCHEMES:
        raise ConfigurationError(f"{name} expects a URL that starts with postgresql:// or postgres://")
    userinfo = None
    ahead = re.match(r"[^@/]*", rest)
    assert ahead is not None
    if rest[ahead.end() : ahead.end() + 1] == "@":
        userinfo, rest = ahead[0], rest[ahead.end() + 1 :]
    place, mark, query = rest.partition("?")
    hosts, slash, dbname = place.partition("/")
    if "@" in place or (slash and "/" in dbname):
        raise ConfigurationError(f"{name} cannot be read, there is an @ or / where none may be: {_ESCAPES}")
    return _PostgresUrl(userinfo, hosts, dbname if slash else None, query if mark else None)


def postgres_parameters(url: str, name: str = "POSTGRES_URL") -> dict[str, str]:
    """What a libpq URL says, as libpq's parameters: host, port, dbname, user, password, options, ...

    name: of the setting, for messages. Raises ConfigurationError, which never shows a secret.
    """
    parts = _split_postgres(url, name)
    parameters: dict[str, str] = {}
    if parts.userinfo is not None:
        user, colon, password = parts.userinfo.partition(":")
        if user:
            parameters["user"] = unescape(user, name, "user")
        if colon and password:
            parameters["password"] = unescape(password, name, "password")
    hosts, ports = [], []
    for place in parts.hosts.split(","):
        host, port = _host_and_port(place, name)
        hosts.append(host)
        ports.append(port)
    if any(hosts) or len(hosts) > 1:
        parameters["host"] = unescape(",".join(hosts), name, "host")
    if any(ports) or len(ports) > 1:
        parameters["port"] = unescape(",".join(ports), name, "port")
    if parts.dbname:
        parameters["dbname"] = unescape(parts.dbname, name, "database's name")
    for piece in parts.query.split("&") if parts.query else []:
        key, equals, value = piece.partition("=")
        if not equals or "=" in value:
            raise ConfigurationError(
                f"{name} has an option after the ? that is not of the form name=value; in a value = is "
                f"written %3D and & %26, and {_ESCAPES}"
            )
        key = unescape(key, name, "name of an option")
        value = unescape(value, name, "value of an option")
        if key == "ssl":
            if value != "true":  # the one value that libpq knows
                raise ConfigurationError(f"{name} has an option ssl that is not ssl=true; use sslmode")
            key, value = "sslmode", "require"
        if key not in _HARMLESS and key not in _SECRET:
            # A part of a password may have come here by mistake: then it is not shown.
            safe = "@" not in (parts.query or "") and not parameters.get("password", "").startswith("?")
            shown = (
                f" {key}"
                if safe and re.fullmatch(r"[a-z_]{1,40}", key) and _SECRET.isdisjoint(parameters)
                else ""
            )
            raise ConfigurationError(f"{name} has an option{shown} that libpq does not know")
        if key == "sslmode" and value not in _SSLMODES:  # libpq's message would show it
            raise ConfigurationError(f"{name} has a value of sslmode that is none of {', '.join(_SSLMODES)}")
        parameters[key] = value
    _check_ports(parameters.get("port", ""), name)
    _check_counts(parameters, name)
    return parameters


def _host_and_port(place: str, name: str) -> tuple[str, str]:
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or not host or (rest and not rest.startswith(":")):
            raise ConfigurationError(f"{name}: an IPv6 address is written in brackets, like [::1]:5432")
        return host, rest[1:]
    host, _, port = place.partition(":")
    return host, port


def _check_ports(ports: str, name: str) -> None:
    for port in ports.split(","):
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ConfigurationError(f"{name}: a port is a whole number from 1 to 65535; {_ESCAPES}")


def _check_counts(parameters: dict[str, str], name: str) -> None:
    """One port serves all hosts; otherwise each host has its own, and its own address. As libpq wants it."""
    counts = {
        key: parameters[key].count(",") + 1 for key in ("hostaddr", "host", "port") if parameters.get(key)
    }
    addresses = counts.get("hostaddr")
    hosts = addresses or counts.get("host")
    if addresses and counts.get("host", addresses) != addresses:
        raise ConfigurationError(f"{name}: hostaddr has {addresses} addresses for {counts['host']} host(s)")
    ports = counts.get("port", 1)
    if hosts and ports not in (1, hosts):
        raise ConfigurationError(
            f"{name}: {ports} ports for {hosts} host(s); one port serves all hosts, or each has its own"
        )


def with_option(url: str, key: str, value: str, name: str = "POSTGRES_URL") -> str:
    """The Postgres URL with an option added, unless it says this one already. Raises ConfigurationError."""
    if key in postgres_parameters(url, name):
        return url
    query = _split_postgres(url, name).query
    return f"{url}{'?' if query is None else '&' if query else ''}{key}={value}"


def postgres_connection(
    url: str, *, application_name: str, connect_timeout_s: int, name: str = "POSTGRES_URL"
) -> dict[str, Any]:
    """Keyword arguments for psycopg to connect with: what the URL says, and what riskstream needs.

    The texts are UTF-8 whatever the database's encoding is, and of several hosts the one that can be written
    to is meant, unless the URL or PGTARGETSESSIONATTRS says which. Raises ConfigurationError.
    """
    parameters = postgres_parameters(url, name)
    needed: dict[str, Any] = {
        **parameters,
        "application_name": parameters.get("application_name") or application_name,
        "connect_timeout": connect_timeout_s,
        "client_encoding": "utf8",
        # A server whose machine or network is gone says nothing at all, and TCP would wait for hours.
        "keepalives": 1,
        "keepalives_idle": 10,  # seconds
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,  # ms
    }
    several = "," in parameters.get("host", os.environ.get("PGHOST", "")) or "," in parameters.get(
        "hostaddr", ""
    )
    if several and "target_session_attrs" not in parameters and "PGTARGETSESSIONATTRS" not in os.environ:
        needed["target_session_attrs"] = "read-write"
    return needed
