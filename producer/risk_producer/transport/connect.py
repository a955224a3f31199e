"""The one place that makes Redis clients, for both packages.

What the URL says about where, as whom and how securely is kept. What riskstream relies on (timeouts, retries,
encoding, protocol, size of the pool) is its own: those options of a URL that other programs share are passed
over, and an option that redis-py does not know, or that makes no sense, is refused before anything connects.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    ChildDeadlockedError,
    ClusterCrossSlotError,
    IncorrectPolicyType,
    InvalidResponse,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from risk_producer.errors import ConfigurationError
from risk_producer.settings.urls import unescape

RedisClient: TypeAlias = "Redis"
"""The type of a client, for annotations. At run time it is a text: nothing can be made of it."""

REDIS_ERRORS: Final = (RedisError, RedisClusterException, ChildDeadlockedError, IncorrectPolicyType)
"""Everything that redis-py raises on purpose; those of a cluster client are no RedisError."""

REDIS_VERSION_MIN: Final = (6, 2)
"""The acknowledgement cuts a stream by XTRIM MINID, and pages of a stream begin after an id: both of 6.2."""

_SCHEMES: Final = ("redis", "rediss", "unix")
_HOST_MAX: Final = 253

# Options of a URL that say where, as whom and how securely: kept. name -> what its value has to be.
_KEPT: Final[dict[str, re.Pattern[str]]] = {
    "db": re.compile(r"\d{1,5}"),
    "username": re.compile(r".+", re.DOTALL),
    "password": re.compile(r".+", re.DOTALL),
    "client_name": re.compile(r"[!-~]+"),
}
_KEPT_WITH_TLS: Final[dict[str, re.Pattern[str]]] = {
    "ssl_keyfile": re.compile(r".+"),
    "ssl_certfile": re.compile(r".+"),
    "ssl_ca_certs": re.compile(r".+"),
    "ssl_ca_path": re.compile(r".+"),
    "ssl_password": re.compile(r".+", re.DOTALL),
    "ssl_ciphers": re.compile(r".+"),
    "ssl_cert_reqs": re.compile(r"none|optional|required"),
    "ssl_check_hostname": re.compile(r"true|false|yes|no|1|0", re.IGNORECASE),
    "ssl_min_version": re.compile(r"\d{1,5}"),
}
_SECRET: Final = frozenset({"password", "ssl_password"})
# Options that redis-py knows and riskstream sets itself: another program may need them in a shared URL.
_PASSED_OVER_NAMES: Final = (
    "socket_timeout socket_connect_timeout socket_read_size socket_keepalive retry_on_timeout retry_on_error "
    "max_connections health_check_interval protocol legacy_responses decode_responses encoding "
    "encoding_errors"
)
_PASSED_OVER: Final = frozenset(_PASSED_OVER_NAMES.split())

# What a server answers that cannot serve any more: it has become a replica, is loading its master's data, or
# has lost the master. Inside the text of a script's error too.
_WRONG_SERVER: Final = re.compile(
    r"\b(READONLY|MASTERDOWN|LOADING|UNBLOCKED)\b|read only replica|can't write against a read only|"
    r"Link with MASTER is down|instance state changed"
)
_CLUSTER: Final = re.compile(r"\b(MOVED|ASK|CROSSSLOT|CLUSTERDOWN)\b")


class ServerTooOld(RedisConnectionError):
    """The server is older than REDIS_VERSION_MIN."""


class CertificateRefused(RedisConnectionError):
    """The certificate of the server cannot be verified. Tried again, as it may be replaced."""


class NotSupported(ResponseError):
    """The server is of a kind that riskstream does not support."""


def redis_client(
    url: str,
    *,
    answer_timeout_s: float,
    connect_timeout_s: float,
    retries: int = 0,
    health_check_s: int = 0,
    name: str = "REDIS_URL",
) -> Redis:
    """A client whose answers are bytes. It connects when it is first asked something. Thread-safe.

    answer_timeout_s, connect_timeout_s: seconds until what does not come is an error (TimeoutError).
    retries: how often a connection that breaks is replaced without a word, with a
    short wait from the second time on.
    health_check_s: a connection that was idle for so many seconds is tried before it is used; 0: it is not.
    name: of the setting that the URL is from. Raises ConfigurationError as check_redis_url() does.

    A connection to a server that became a replica, or says otherwise that it is the wrong one, is closed: the
    next call makes a new one, which comes to the new master where a name or a proxy leads there.
    """
    options = _options(url, name)
    pool = ConnectionPool(
        **options,
        socket_timeout=answer_timeout_s,
        socket_connect_timeout=connect_timeout_s,
        health_check_interval=health_check_s,
        retry=Retry(
            NoBackoff() if retries < 2 else ExponentialWithJitterBackoff(base=0.01, cap=1.0),
            retries,
            supported_errors=(RedisConnectionError,),
        ),
        decode_responses=False,
        protocol=3,
        driver_info=None,  # would cost each new connection two more round trips, and another permission
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return Redis.from_pool(pool)


def adopt(client: Redis) -> Redis:
    """Make a client that another library made behave as those of redis_client() do on a wrong server.

    Its new connections are of the maker's kind, and answers are bytes. Returns the same client.
    """
    pool: Any = client.connection_pool
    kinds = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}
    pool.connection_class = kinds.get(pool.connection_class, pool.connection_class)
    pool.connection_kwargs["decode_responses"] = False
    return client


def check_redis_url(url: str, name: str = "REDIS_URL") -> None:
    """Raise ConfigurationError, which names the setting, for a URL that cannot work. Connects to nothing."""
    _options(url, name)


def _options(url: str, name: str) -> dict[str, Any]:
    """Arguments for a connection pool. Raises ConfigurationError, which never shows a part of a secret."""
    if not isinstance(url, str):
        raise ConfigurationError(f"{name} expects a text, got {type(url).__name__}")
    if not url.isprintable() or " " in url:
        # Surrogates stand for bytes of the environment that are not UTF-8; they are not printable either.
        raise ConfigurationError(f"{name} contains a blank, a control character or bytes that are not UTF-8")
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _SCHEMES:
        raise ConfigurationError(
            f"{name} expects a URL that starts with {' or '.join(f'{each}://' for each in _SCHEMES)}"
        )
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    userinfo, _, place = authority[0].rpartition("@")
    path, mark, query = rest[authority.end() :].partition("?")
    if "#" in path + query or "@" in path + ("" if scheme == "unix" else query):
        raise ConfigurationError(
            f"{name} cannot be read, there is an @ or # where none may be: in a user or password / is "
            "written %2F, @ %40, : %3A, # %23, ? %3F, % %25"
        )
    options: dict[str, Any] = {}
    user, _, password = userinfo.partition(":")
    if user:
        options["username"] = unescape(user, name, "user")
    if password:
        options["password"] = unescape(password, name, "password")
    if scheme == "unix":
        if not path.startswith("/"):
            raise ConfigurationError(f"{name} expects the socket's path, like unix:///run/redis.sock?db=0")
        options["path"] = unescape(f"{place}{path}", name, "path")
    else:
        host, port = _place(place, name)
        options |= {"host": host, "port": port}
        if path not in ("", "/"):
            if not re.fullmatch(r"/\d{1,5}", path):
                raise ConfigurationError(f"{name} expects a number as the database after the host, like /0")
            options["db"] = int(path[1:])
    options |= _query(query if mark else "", name, tls=scheme == "rediss")
    kind: type[Any] = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}[scheme]
    return {**options, "connection_class": kind}


def _place(place: str, name: str) -> tuple[str, int]:
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
            f"{name} expects a whole number from 1 to 65535 as the port; in a user or password : is written "
            "%3A, / %2F, # %23, ? %3F, @ %40, % %25"
        )
    return host or "localhost", int(port) if port else 6379


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


def _query(query: str, name: str, *, tls: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for piece in query.split("&") if query else []:
        key, equals, value = piece.partition("=")
        key = unescape(key, name, "name of an option")
        value = unescape(value.replace("+", " "), name, "value of an option")
        expected = _KEPT.get(key) or _KEPT_WITH_TLS.get(key)
        if not equals or (expected is None and key not in _PASSED_OVER):
            shown = f" {key}" if re.fullmatch(r"[a-z_]{1,40}", key) and _SECRET.isdisjoint(options) else ""
            known = ", ".join(_KEPT_WITH_TLS if tls else _KEPT)
            raise ConfigurationError(f"{name} has an option{shown} that cannot be used; options are: {known}")
        if expected is None:
            continue
        if key in _KEPT_WITH_TLS and not tls:
            raise ConfigurationError(
                f"{name} has the option {key}, which needs a URL that starts with rediss://"
            )
        if not expected.fullmatch(value):
            raise ConfigurationError(f"{name} has a value of the option {key} that cannot be used")
        if key in ("db", "ssl_min_version"):
            options[key] = int(value)
        elif key == "ssl_check_hostname":
            options[key] = value.lower() in ("true", "yes", "1")
        else:
            options[key] = value
    return options


_Base = Connection if TYPE_CHECKING else object


class _Checked(_Base):  # type: ignore[misc, valid-type]
    """A connection that is not kept once the server says that it is the wrong one."""

    def connect_check_health(self, *arguments: Any, **options: Any) -> None:
        try:
            super().connect_check_health(*arguments, **options)
        except BaseException:
            # Half open the pool would take it for an open one, and each later command would fail.
            self.disconnect()
            raise

    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health=check_health)
        except ResponseError as error:
            if "unknown command" in str(error).lower() and "hello" in str(error).lower():
                raise ServerTooOld(_too_old("a version before 6.0")) from None
            raise
        metadata: Any = self.handshake_metadata or {}
        version = metadata.get(b"version", b"").decode(errors="replace")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < REDIS_VERSION_MIN:
            raise ServerTooOld(_too_old(version))

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            said = f"{getattr(error, 'status_code', None) or ''} {error}"
            if isinstance(error, AskError | ClusterCrossSlotError) or _CLUSTER.search(said):
                self.mark_for_reconnect()
                raise NotSupported(
                    f"the server is a node of a Redis Cluster, which is not supported yet ({said.strip()})"
                ) from error
            if _WRONG_SERVER.search(said):
                self.mark_for_reconnect()  # not at once: the answers to a pipeline are still to be read
            raise


def _too_old(version: str) -> str:
    least = ".".join(map(str, REDIS_VERSION_MIN))
    return f"Redis {version} is too old: riskstream needs Redis {least} or newer, or Valkey"


class _Tcp(_Checked, Connection):
    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health=check_health)
        except (RedisConnectionError, InvalidResponse) as error:
            if type(error) not in (RedisConnectionError, InvalidResponse):
                raise  # it says by itself what is wrong
            raise RedisConnectionError(
                f"{self.host}:{self.port} did not answer as Redis does when the connection was opened: "
                f"{str(error).removesuffix('.')}; if it expects TLS, the URL has to start with rediss://"
            ) from error


# OpenSSL's reasons for bytes that are no record of TLS.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


class _Tls(_Checked, SSLConnection):
    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        try:
            return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        except ssl.SSLCertVerificationError as error:
            raise CertificateRefused(
                f"the certificate of Redis at {self.host}:{self.port} is not accepted: "
                f"{error.verify_message}; ssl_ca_certs=FILE in the URL names the authority that signed it"
            ) from error
        except TimeoutError as error:
            raise RedisTimeoutError(self._no_handshake("it did not answer in time")) from error
        except (ConnectionError, ssl.SSLEOFError) as error:
            raise RedisConnectionError(self._no_handshake("it closed the connection")) from error
        except ssl.SSLError as error:
            if error.reason not in _NO_TLS:
                raise
            raise RedisConnectionError(self._no_handshake("its answer is not TLS")) from error

    def _no_handshake(self, why: str) -> str:
        return (
            f"{self.host}:{self.port} did not complete a TLS handshake, {why}; if it does not speak TLS, "
            "the URL has to start with redis://"
        )


class _Unix(_Checked, UnixDomainSocketConnection):
    pass
