"""What a Redis URL means. It is read strictly, and nothing here connects.

redis://, rediss://, unix://              one server
redis+sentinel://h1,h2/name, rediss+…     the master that the Sentinels at h1 and h2 know by this name
redis+cluster://h1,h2, rediss+…           the Redis Cluster that h1 and h2 belong to

What the URL says about where, as whom and how securely is kept. What riskstream relies on (timeouts, retries,
encoding, protocol, size of the pool) is its own: those options of a URL that other programs share are passed
over, and an option that is not known, or makes no sense, is refused. No message shows a part of a secret.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from risk_producer.errors import ConfigurationError
from risk_producer.settings.urls import unescape

Kind = Literal["server", "sentinel", "cluster"]

SENTINEL_EXAMPLE: Final = "redis+sentinel://h1:26379,h2:26379/mymaster/0"

_KINDS: Final[Mapping[str, tuple[Kind, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
"""scheme -> what is there, and whether it speaks TLS."""
_PORT: Final[Mapping[Kind, int]] = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_HOST_MAX: Final = 253
_ESCAPES: Final = "/ is written %2F, @ %40, : %3A, # %23, ? %3F, % %25"

_ANY: Final = re.compile(r".+", re.DOTALL)
# Options that say where, as whom and how securely: kept. name -> what its value has to be.
_KEPT: Final[dict[str, re.Pattern[str]]] = {
    "db": re.compile(r"\d{1,5}"),
    "username": _ANY,
    "password": _ANY,
    "client_name": re.compile(r"[!-~]+"),
}
_KEPT_WITH_TLS: Final[dict[str, re.Pattern[str]]] = {
    "ssl_keyfile": re.compile(r".+"),
    "ssl_certfile": re.compile(r".+"),
    "ssl_ca_certs": re.compile(r".+"),
    "ssl_ca_path": re.compile(r".+"),
    "ssl_password": _ANY,
    "ssl_ciphers": re.compile(r".+"),
    "ssl_cert_reqs": re.compile(r"none|optional|required"),
    "ssl_check_hostname": re.compile(r"true|false|yes|no|1|0", re.IGNORECASE),
    "ssl_min_version": re.compile(r"769|77[012]"),  # TLS 1.0 to 1.3, as OpenSSL numbers them
}
_KEPT_FOR_SENTINELS: Final[dict[str, re.Pattern[str]]] = {
    "sentinel_username": _ANY,
    "sentinel_password": _ANY,
}
_SECRET: Final = frozenset({"password", "ssl_password", "sentinel_password"})
# Options that redis-py knows and riskstream sets itself: another program may need them in a shared URL.
_PASSED_OVER_NAMES: Final = (
    "socket_timeout socket_connect_timeout socket_read_size socket_keepalive retry_on_timeout retry_on_error "
    "max_connections health_check_interval protocol legacy_responses decode_responses encoding "
    "encoding_errors"
)
_PASSED_OVER: Final = frozenset(_PASSED_OVER_NAMES.split())


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a Redis URL says. Its repr shows no secret."""

    kind: Kind
    tls: bool
    places: tuple[tuple[str, int], ...]
    """(host, port) of the server, of the Sentinels, or of nodes of the cluster; empty: see socket."""
    socket: str = ""
    """Path of the server's socket."""
    master: str = ""
    """The name by which the Sentinels know the master."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For a connection to the server, the master or a node: username, password, db, client_name, ssl_*."""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For a connection to a Sentinel: username, password, ssl_*."""


def redis_address(url: str, name: str = "REDIS_URL") -> RedisAddress:
    """Read a Redis URL. name: of the setting, for messages. Raises ConfigurationError, which names it."""
    if not isinstance(url, str):
        raise ConfigurationError(f"{name} expects a text, got {type(url).__name__}")
    if not url.isprintable() or " " in url:
        # Surrogates stand for bytes of the environment that are not UTF-8; they are not printable either.
        raise ConfigurationError(f"{name} contains a blank, a control character or bytes that are not UTF-8")
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _KINDS:
        raise ConfigurationError(
            f"{name} expects a URL that starts with {', '.join(f'{each}://' for each in _KINDS)}"
        )
    kind, tls = _KINDS[scheme]
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    userinfo, _, place = authority[0].rpartition("@")
    path, mark, query = rest[authority.end() :].partition("?")
    if "#" in path + query or "@" in path + ("" if scheme == "unix" else query):
        raise ConfigurationError(
            f"{name} cannot be read, there is an @ or # where none may be: in a user or password {_ESCAPES}"
        )
    if kind != "server" and "@" in userinfo:
        raise ConfigurationError(
            f"{name} has more than one @: the user and password stand once, before the first host, and in "
            f"them {_ESCAPES}"
        )
    options: dict[str, Any] = {}
    user, _, password = userinfo.partition(":")
    if user:
        options["username"] = unescape(user, name, "user")
    if password:
        options["password"] = unescape(password, name, "password")
    socket = master = ""
    places: tuple[tuple[str, int], ...] = ()
    if scheme == "unix":
        if not path.startswith("/"):
            raise ConfigurationError(f"{name} expects the socket's path, like unix:///run/redis.sock?db=0")
        socket = unescape(f"{place}{path}", name, "path")
    else:
        places = _places(place, kind, name)
        if kind == "sentinel":
            master, path = _master(path, name)
        if path not in ("", "/"):
            if not re.fullmatch(r"/\d{1,5}", path):
                raise ConfigurationError(
                    f"{name} expects a number as the database after the "
                    f"{'name of the master' if kind == 'sentinel' else 'host'}, like /0"
                )
            options["db"] = int(path[1:])
    options |= _query(query if mark else "", name, kind, tls=tls)
    if kind == "cluster" and options.pop("db", 0) != 0:
        raise ConfigurationError(f"{name}: a Redis Cluster has the database 0 alone")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ConfigurationError(f"{name} has the option ssl_keyfile without ssl_certfile: it expects both")
    of_sentinels = {key: value for key, value in options.items() if key in _KEPT_WITH_TLS}
    for option in _KEPT_FOR_SENTINELS:
        if option in options:
            of_sentinels[option.removeprefix("sentinel_")] = options.pop(option)
    return RedisAddress(kind, tls, places, socket, master, options, of_sentinels)


def check_for_rq(url: str, name: str) -> None:
    """Raise ConfigurationError for a URL on which RQ cannot work. name: of the setting."""
    if redis_address(url, name).kind == "cluster":
        raise ConfigurationError(
            f"{name} names a Redis Cluster, on which RQ cannot work: its transactions touch keys that a "
            f"cluster keeps on different nodes. RQ_REDIS_URL expects another Redis, which may be small, by "
            "redis:// or redis+sentinel://"
        )


def _places(hosts: str, kind: Kind, name: str) -> tuple[tuple[str, int], ...]:
    places = hosts.split(",")
    if kind == "server" and len(places) > 1:
        raise ConfigurationError(
            f"{name} has a list of hosts, which is for redis+sentinel:// and redis+cluster://"
        )
    if kind != "server" and not all(places):
        like = SENTINEL_EXAMPLE if kind == "sentinel" else "redis+cluster://h1:6379,h2:6379"
        raise ConfigurationError(f"{name} expects hosts with commas between them, like {like}")
    return tuple(_place(place, kind, name) for place in places)


def _place(place: str, kind: Kind, name: str) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", place)
    if bracketed:
        host, port = unescape(bracketed[1], name, "host"), bracketed[2]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigurationError(f"{name} expects an IPv6 address between [ and ], like [::1]") from None
    else:
        host, _, port = place.partition(":")
        host = unescape(host, name, "host")
        _check_host(host, name)
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigurationError(
            f"{name} expects a whole number from 1 to 65535 as the port; in a user or password {_ESCAPES}"
        )
    return host or "localhost", int(port) if port else _PORT[kind]


def _check_host(host: str, name: str) -> None:
    """Refuse what no resolver could know: empty or too long labels, characters that no name has."""
    refused = ConfigurationError(f"{name} has a host that is neither a name nor an address")
    if not host:
        return
    try:
        encoded = host.removesuffix(".").encode("idna").decode("ascii")
    except UnicodeError:
        raise refused from None
    labels = encoded.split(".")
    if len(encoded) > _HOST_MAX or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in labels):
        raise refused


def _master(path: str, name: str) -> tuple[str, str]:
    """(the master's name, what follows it)."""
    master, slash, rest = path.removeprefix("/").partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", master):  # what Sentinel takes as a name
        raise ConfigurationError(
            f"{name} expects the name by which the Sentinels know the master, like {SENTINEL_EXAMPLE}"
        )
    return master, slash + rest


def _query(query: str, name: str, kind: Kind, *, tls: bool) -> dict[str, Any]:
    known = _KEPT | (_KEPT_WITH_TLS if tls else {}) | (_KEPT_FOR_SENTINELS if kind == "sentinel" else {})
    elsewhere = dict.fromkeys(_KEPT_WITH_TLS, "rediss") | dict.fromkeys(_KEPT_FOR_SENTINELS, "redis+sentinel")
    options: dict[str, Any] = {}
    for piece in query.split("&") if query else []:
        key, equals, value = piece.partition("=")
        key = unescape(key, name, "name of an option")
        value = unescape(value.replace("+", " "), name, "value of an option")
        if not equals or key not in (*known, *elsewhere, *_PASSED_OVER):
            shown = f" {key}" if re.fullmatch(r"[a-z_]{1,40}", key) and _SECRET.isdisjoint(options) else ""
            raise ConfigurationError(
                f"{name} has an option{shown} that cannot be used; options are: {', '.join(known)}"
            )
        if key in _PASSED_OVER:
            continue
        if key not in known:
            raise ConfigurationError(
                f"{name} has the option {key}, which needs a URL that starts with {elsewhere[key]}"
                f"{'://' if key in _KEPT_FOR_SENTINELS or kind == 'server' else f'+{kind}://'}"
            )
        if not known[key].fullmatch(value):
            raise ConfigurationError(f"{name} has a value of the option {key} that cannot be used")
        if key in ("db", "ssl_min_version"):
            options[key] = int(value)
        elif key == "ssl_check_hostname":
            options[key] = value.lower() in ("true", "yes", "1")
        elif key == "ssl_ciphers" and not _are_ciphers(value):
            raise ConfigurationError(
                f"{name} has an option ssl_ciphers of which OpenSSL knows no cipher; see: openssl ciphers"
            )
        else:
            options[key] = value
    return options


def _are_ciphers(text: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(text)
    except (ssl.SSLError, ValueError):
        return False
    return True
