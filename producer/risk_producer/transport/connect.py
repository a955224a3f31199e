"""The one place that makes Redis clients, for both packages.

settings/address.py reads the URL; here it becomes a client: of one server, of the master that Sentinels know,
or of a Redis Cluster. What riskstream relies on (timeouts, retries, encoding, protocol, size of the pool) is
the same for all of them, whatever the URL says.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha1
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ChildDeadlockedError,
    ClusterCrossSlotError,
    ClusterDownError,
    IncorrectPolicyType,
    InvalidResponse,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from risk_producer import tls
from risk_producer.settings.address import SENTINEL_EXAMPLE, RedisAddress, redis_address

RedisClient: TypeAlias = "Redis"
"""The type of a client, for annotations. At run time it is a text: nothing can be made of it."""

REDIS_ERRORS: Final = (RedisError, RedisClusterException, ChildDeadlockedError, IncorrectPolicyType)
"""Everything that redis-py raises on purpose; those of a cluster client are no RedisError."""

REDIS_VERSION_MIN: Final = (6, 2)
"""The acknowledgement cuts a stream by XTRIM MINID, and pages of a stream begin after an id: both of 6.2."""

OTHERS_CONNECT_S: Final = 1.0
"""How long to wait for a connection to a Sentinel, or to a node of a cluster, at the most: another one may
answer meanwhile."""

NODE_ANSWER_S: Final = 1.0
"""How long producers and workers wait for an answer of a node of a cluster: the partitions of the other nodes
stand still meanwhile, once, until it is known that this one does not answer."""
PROBE_S: Final = 0.25
"""How long a node of a cluster that did not answer is given when it is tried again, for each step of
connecting: the other nodes wait meanwhile."""

LOOK_S: Final = 1.0
"""How often the Sentinels are asked whether the master is still the same: one that they have replaced takes
writes for some 10 s more, and loses them."""
LOOK_AGAIN_S: Final = 30.0
"""How soon they are asked again when none of them answered."""

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
    """The certificate of the server is not accepted, or the server does not accept this client's, or TLS
    cannot be begun with the files that the URL names. Tried again, as each of them may be replaced."""

    def __init__(self, what: str, todo: str = "") -> None:
        """what: the sentence without its end. todo: what to do about it."""
        super().__init__(f"{what}; {todo}" if todo else what)
        self.what = what
        self.todo = todo


class WrongServer(RedisConnectionError):
    """A Sentinel answers where the URL names a server, or a server where it names a Sentinel."""


class NotSupported(ResponseError):
    """The server is a node of a Redis Cluster, and the URL says that it is one server."""


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
    short wait from the second time on; once at the most by the client of a cluster, where others wait.
    health_check_s: a connection that was idle for so many seconds is tried before it is used; 0: it is not.
    name: of the setting that the URL is from. Raises ConfigurationError as redis_address() does.

    A connection to a server that became a replica, or says otherwise that it is the wrong one, is closed: the
    next call makes a new one, which comes to the new master where Sentinels, a name or a proxy lead there.
    For a redis+cluster:// URL the client is a RedisCluster, which answers the same calls.
    """
    address = redis_address(url, name)
    settings: dict[str, Any] = {
        "socket_timeout": answer_timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "health_check_interval": health_check_s,
        "decode_responses": False,
        "protocol": 3,
        "driver_info": None,  # would cost each new connection two more round trips, and another permission
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if address.kind == "cluster":
        return cast("Redis", _Cluster(address, settings, Retry(NoBackoff(), min(retries, 1))))
    retry = Retry(
        NoBackoff() if retries < 2 else ExponentialWithJitterBackoff(base=0.01, cap=1.0),
        retries,
        supported_errors=(RedisConnectionError,),
    )
    if address.kind == "sentinel":
        return Redis.from_pool(_MasterPool(address, settings, retry))
    if address.socket:
        kind: type[Any] = _Unix
        place: dict[str, Any] = {"path": address.socket}
    else:
        [(host, port)] = address.places
        kind, place = _Tls if address.tls else _Tcp, {"host": host, "port": port}
    pool = ConnectionPool(**address.options, **place, **settings, retry=retry, connection_class=kind)
    return Redis.from_pool(pool)


def adopt(client: Redis) -> Redis:
    """Make a client that another library made behave as those of redis_client() do on a wrong server.

    Its new connections are of the maker's kind, and answers are bytes. Returns the same client.
    """
    pool: Any = client.connection_pool
    kinds = {
        Connection: _Tcp,
        SSLConnection: _Tls,
        UnixDomainSocketConnection: _Unix,
        SentinelManagedConnection: _MasterTcp,
        SentinelManagedSSLConnection: _MasterTls,
    }
    pool.connection_class = kinds.get(pool.connection_class, pool.connection_class)
    pool.connection_kwargs["decode_responses"] = False
    return client


def rehearse(client: Any) -> None:
    """Do all that comes before the first connection, so that what it needs is imported."""
    if isinstance(client, _Cluster):
        client.pool_of_a_node().make_connection()
        return
    pool = client.connection_pool
    pool.make_connection()
    if isinstance(pool, _MasterPool):
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.connection_pool.make_connection()


def try_to_connect(client: Any) -> None:
    """Make one connection, and ask nothing: it needs no permission. Raises one of REDIS_ERRORS."""
    if isinstance(client, RedisCluster):
        client.get_default_node()  # type: ignore[no-untyped-call]
    else:
        client.connection_pool.get_connection().disconnect()


def encryption_of(client: Any) -> list[tls.Encryption]:
    """Of a connection to each server that answers; empty: without TLS. Raises one of REDIS_ERRORS."""
    if not isinstance(client, RedisCluster):
        return _encryption(client.connection_pool)
    found = []
    nodes: Any = client.get_nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        with suppress(*REDIS_ERRORS):
            found += _encryption(client.get_redis_connection(node).connection_pool)
    return found


def _encryption(pool: Any) -> list[tls.Encryption]:
    connection = pool.get_connection()
    try:
        return [connection.encryption()] if isinstance(connection, _Encrypted) else []
    finally:
        pool.release(connection)


def is_cluster(client: Any) -> bool:
    """Whether the client is one of a Redis Cluster."""
    return isinstance(client, RedisCluster)


_Base = Connection if TYPE_CHECKING else object


class _Greeted(_Base):  # type: ignore[misc, valid-type]
    """A connection to a server that is new enough, and of the kind that the URL says."""

    of_sentinel = False
    _commands = 1
    """In what is sent next."""
    _owed = 0
    """Replies that are still to be read."""
    _subscribes = False
    """What is sent and what is read are no pairs."""

    def should_reconnect(self) -> bool:
        """Whether it has to be closed before it is used again.

        So it is where a fault came between two replies: who asks next would take those that are left for the
        replies to his own questions.
        """
        return super().should_reconnect() or (self._owed > 0 and not self._subscribes)

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        commands = list(commands)
        self._commands = len(commands)
        return super().pack_commands(commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        commands, self._commands = self._commands, 1
        self._owed = commands
        super().send_packed_command(command, check_health)
        self._owed = commands  # to connect, or to check the health, is to send and to read too

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            response = super().read_response(*args, **options)
        except ResponseError:
            self._owed = max(0, self._owed - 1)
            raise
        self._owed = max(0, self._owed - 1)
        return response

    def disconnect(self, *args: Any, **options: Any) -> None:
        self._owed = 0
        super().disconnect(*args, **options)

    def register_connect_callback(self, callback: Any) -> None:
        self._subscribes = True
        super().register_connect_callback(callback)

    def deregister_connect_callback(self, callback: Any) -> None:
        self._subscribes = False
        super().deregister_connect_callback(callback)

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
        except AuthenticationError as error:
            if "HELLO must be called" in str(error):  # Redis explains its protocol there
                raise AuthenticationError("Authentication required", status_code="NOAUTH") from None
            raise
        metadata: Any = self.handshake_metadata or {}
        version = metadata.get(b"version", b"").decode(errors="replace")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < REDIS_VERSION_MIN:
            raise ServerTooOld(_too_old(version))
        mode = metadata.get(b"mode")
        if mode is not None and (mode == b"sentinel") != self.of_sentinel:
            raise WrongServer(
                f"{self.host}:{self.port} is no Sentinel, but a server: the URL of one begins with redis://"
                if self.of_sentinel
                else f"{self.host}:{self.port} is a Sentinel: a URL with Sentinels is like {SENTINEL_EXAMPLE}"
            )


class _Checked(_Greeted):
    """A connection that is not kept once the server says that it is the wrong one."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            answer = f"{getattr(error, 'status_code', None) or ''} {error}"
            if isinstance(error, AskError | ClusterCrossSlotError) or _CLUSTER.search(answer):
                self.mark_for_reconnect()
                raise NotSupported(
                    f"this is a node of a Redis Cluster ({answer.strip()}): write redis+cluster:// for the "
                    "stream; RQ needs a Redis that is no cluster"
                ) from error
            if _WRONG_SERVER.search(answer):
                self.mark_for_reconnect()  # not at once: the answers to a pipeline are still to be read
            raise


def _too_old(version: str) -> str:
    least = ".".join(map(str, REDIS_VERSION_MIN))
    return f"Redis {version} is too old: riskstream needs Redis {least} or newer, or Valkey"


class _Plain(_Base):  # type: ignore[misc, valid-type]
    """Without TLS; it says so where the server does not answer as Redis does."""

    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health=check_health)
        except (RedisConnectionError, InvalidResponse) as error:
            if type(error) not in (RedisConnectionError, InvalidResponse):
                raise  # it says by itself what is wrong
            raise RedisConnectionError(
                f"{self.host}:{self.port} did not answer as Redis does when the connection was opened: "
                f"{str(error).removesuffix('.')}; if it expects TLS, the URL has to start with rediss"
            ) from error


# OpenSSL's reasons for bytes that are no record of TLS.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


class _Socket(ssl.SSLSocket):
    """Where it cannot be written to, what the server had to say before it closed the connection is the error.

    With TLS 1.3 the handshake is over here before the server has looked at this client's certificate.
    """

    def sendall(self, data: Any, flags: int = 0) -> None:
        try:
            super().sendall(data, flags)
        except (ConnectionError, ssl.SSLEOFError):
            self.recv(1)
            raise


class _Encrypted(SSLConnection if TYPE_CHECKING else object):  # type: ignore[misc]
    """With TLS; it says so where no handshake comes about, and what is wrong with a certificate."""

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        """As redis-py's own, but for one thing: where the URL names authorities, no others are trusted."""
        if self.ssl_validate_ocsp or self.ssl_validate_ocsp_stapled:  # of a client that `rq worker` made
            return super()._wrap_socket_with_ssl(sock)
        try:
            return self._context().wrap_socket(sock, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            problem = tls.of_server(error, self.host, tls.REDIS)
            raise CertificateRefused(
                f"the certificate of Redis at {self._place} is not accepted: {problem.what}", problem.todo
            ) from error
        except TimeoutError as error:
            raise RedisTimeoutError(self._no_handshake("it did not answer in time")) from error
        except (ConnectionError, ssl.SSLEOFError) as error:
            raise RedisConnectionError(self._no_handshake("it closed the connection")) from error
        except ssl.SSLError as error:
            if error.reason in _NO_TLS:
                raise RedisConnectionError(self._no_handshake("its answer is not TLS")) from error
            self._raise_refused(error)
            raise

    def _context(self) -> ssl.SSLContext:
        """Made for each connection: files that were replaced are taken from the next one on."""
        try:
            made = tls.context(
                tls.REDIS,
                authorities=self.ca_certs,
                folder=self.ca_path,
                data=self.ca_data,
                certificate=self.certfile,
                key=self.keyfile,
                passphrase=self.certificate_password,
            )
            made.sslsocket_class = _Socket
            made.check_hostname = self.check_hostname
            made.verify_mode = self.cert_reqs
            for flag in self.ssl_include_verify_flags or ():
                made.verify_flags |= flag
            for flag in self.ssl_exclude_verify_flags or ():
                made.verify_flags &= ~flag
            if self.ssl_min_version is not None:
                made.minimum_version = self.ssl_min_version
            if self.ssl_ciphers:
                made.set_ciphers(self.ssl_ciphers)
        except tls.FilesUnusable as error:
            raise CertificateRefused(
                f"TLS to Redis at {self._place} cannot be begun: {error.problem.what}", error.problem.todo
            ) from None
        return made

    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health=check_health)
        except RedisConnectionError as error:
            self._raise_refused(error)
            raise

    def encryption(self) -> tls.Encryption:
        """Of this connection, which is open."""
        return tls.Encryption.of(self._place, self._sock)

    def _raise_refused(self, error: Exception) -> None:
        """Where an error is the alert of a server that does not accept this client."""
        problem = tls.of_client(str(error), tls.REDIS)
        if problem is not None:
            raise CertificateRefused(
                f"Redis at {self._place} does not accept this client: {problem.what}", problem.todo
            ) from error

    @property
    def _place(self) -> str:
        return f"{self.host}:{self.port}"

    def _no_handshake(self, why: str) -> str:
        return (
            f"{self.host}:{self.port} did not complete a TLS handshake, {why}; if it does not speak TLS, "
            "the URL has to start with redis, not rediss"
        )


class _Tcp(_Plain, _Checked, Connection):
    pass


class _Tls(_Encrypted, _Checked, SSLConnection):
    pass


class _Unix(_Checked, UnixDomainSocketConnection):
    pass


class _MasterTcp(_Plain, _Checked, SentinelManagedConnection):
    pass


class _MasterTls(_Encrypted, _Checked, SentinelManagedSSLConnection):
    pass


class _SentinelTcp(_Plain, _Greeted, Connection):
    of_sentinel = True


class _SentinelTls(_Encrypted, _Greeted, SSLConnection):
    of_sentinel = True


class _NodeTcp(_Plain, _Greeted, Connection):
    pass


class _NodeTls(_Encrypted, _Greeted, SSLConnection):
    pass


class _Sentinels(Sentinel):
    """Asks one Sentinel after the other where the master is; the one that knew it comes first next time."""

    def __init__(self, address: RedisAddress, settings: Mapping[str, Any]) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        connect_s = min(settings["socket_connect_timeout"], OTHERS_CONNECT_S)
        mine = {
            **settings,
            **address.sentinel_options,
            "socket_timeout": connect_s,
            "socket_connect_timeout": connect_s,
            "retry": Retry(NoBackoff(), 0),
            "connection_class": _SentinelTls if address.tls else _SentinelTcp,
        }
        self.sentinels = [
            Redis.from_pool(ConnectionPool(host=host, port=port, **mine)) for host, port in address.places
        ]

    def discover_master(self, service_name: str) -> tuple[str, int]:
        reasons, last = [], None
        for sentinel in list(self.sentinels):
            try:
                masters: Any = sentinel.sentinel_masters()
            except REDIS_ERRORS as error:
                reason, last = str(error), error
            else:
                state = masters.get(service_name)
                if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                    self.sentinels.remove(sentinel)
                    self.sentinels.insert(0, sentinel)
                    return state["ip"], state["port"]
                known = ", ".join(sorted(masters)) or "none"
                reason = "it is down" if state else f"there is no master of that name; masters: {known}"
            place = sentinel.connection_pool.connection_kwargs
            reasons.append(f"{place['host']}:{place['port']} says: {reason}")
        raise MasterNotFoundError(
            f"no Sentinel names a master {service_name}: {'; '.join(reasons)}"
        ) from last


class _MasterPool(SentinelConnectionPool):
    """Connections to the master. The Sentinels are asked where it is for each new one, and every LOOK_S."""

    def __init__(self, address: RedisAddress, settings: Mapping[str, Any], retry: Retry) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            address.master,
            _Sentinels(address, settings),
            connection_class=_MasterTls if address.tls else _MasterTcp,
            retry=retry,
            **address.options,
            **settings,
        )
        self._look_at = 0.0

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        now = monotonic()
        if self.master_address is not None and now >= self._look_at:
            self._look_at = now + LOOK_S
            try:
                # Where it is another one, connections to the old one are closed.
                self.get_master_address()  # type: ignore[no-untyped-call]
            except REDIS_ERRORS:
                self._look_at = now + LOOK_AGAIN_S
        return super().get_connection()

    def close(self) -> None:
        super().close()
        self.sentinel_manager.close()


class _Script:
    """A script that is sent along where a node does not know it.

    redis-py's own loads it into all nodes of a cluster, and fails with any of them.
    """

    def __init__(self, client: Any, text: str) -> None:
        self._client = client
        self.script = text
        self.sha = sha1(text.encode()).hexdigest()  # noqa: S324  Redis calls scripts so

    def __call__(self, keys: Sequence[Any] = (), args: Iterable[Any] = (), client: Any = None) -> Any:
        client = client or self._client
        words = (len(keys), *keys, *args)
        try:
            return client.evalsha(self.sha, *words)
        except NoScriptError:
            return client.eval(self.script, *words)


class _ClusterPipeline(ClusterPipeline):
    """With what redis-py blocks, though any node may answer it."""

    def ping(self, **options: Any) -> Any:
        return self.execute_command("PING", **options)  # type: ignore[no-untyped-call]

    def time(self) -> Any:  # type: ignore[override]
        return self.execute_command("TIME")  # type: ignore[no-untyped-call]


class _Cluster(RedisCluster):
    """A RedisCluster that looks for its nodes when it is first asked something.

    redis-py's own connects when it is made, and never looks at the nodes of the URL again.
    """

    # As a client of one server: a time-out is not repeated.
    ERRORS_ALLOW_RETRY: Any = (RedisConnectionError, ClusterDownError, SlotNotCoveredError)

    def __init__(self, address: RedisAddress, settings: Mapping[str, Any], retry: Retry) -> None:
        self._address = address
        self._retry = retry
        self._settings = {
            **settings,
            **address.options,
            "connection_class": _NodeTls if address.tls else _NodeTcp,
            "socket_connect_timeout": min(settings["socket_connect_timeout"], OTHERS_CONNECT_S),
        }
        self._callbacks: dict[str, Callable[..., Any]] = {}
        self._making = threading.RLock()
        self._made = self._under_way = False
        self._failed: str | None = None
        """The node that did not answer last."""

    def __getattr__(self, name: str) -> Any:
        """What RedisCluster's __init__ sets is not there before the first call."""
        if "_made" not in self.__dict__ or name.startswith("__"):
            raise AttributeError(name)
        with self._making:
            if not self._made:
                if self._under_way:
                    raise AttributeError(name)
                self._under_way = True
                try:
                    self._find_nodes()
                finally:
                    self._under_way = False
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(name) from None

    def _find_nodes(self) -> None:
        host, port = self._address.places[0]
        nodes = self._nodes()[1:]  # to which redis-py adds the one of its URL
        try:
            super().__init__(
                # By a URL, as it takes a pool's settings then; of which it would pass on some alone.
                url=f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}",
                startup_nodes=nodes,
                connection_pool_class=partial(ConnectionPool, **self._settings),
                protocol=3,
                decode_responses=False,
                maint_notifications_config=self._settings["maint_notifications_config"],
                retry=self._retry,
                require_full_coverage=False,  # what one part lacks is no reason to leave the others
            )
        except BaseException:
            _disconnect(nodes)
            raise
        self._made = True

    def _nodes(self) -> list[ClusterNode]:
        return [ClusterNode(*place) for place in self._address.places]  # type: ignore[no-untyped-call]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if self._under_way and not options:
            return self._ask_any(args)
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisClusterException as error:
            if self._made:
                self._add_nodes()
                if isinstance(error, SlotNotCoveredError):
                    self.look_again()
            raise
        except (AttributeError, LookupError) as error:  # redis-py was sent to a node that it does not know
            self._add_nodes()
            self.look_again()
            raise RedisClusterException(f"the nodes of the Redis Cluster have changed ({error})") from error

    def _ask_any(self, words: Sequence[Any]) -> Any:
        """What redis-py asks while it is made, and any node can answer. It asks the same one always, which
        may be away while the others know that it has slots. Raises one of REDIS_ERRORS where none answers."""
        nodes = self.get_nodes()  # type: ignore[no-untyped-call]
        for at, node in enumerate(nodes, 1):
            try:
                return super().execute_command(*words, target_nodes=node)  # type: ignore[no-untyped-call]
            except (RedisConnectionError, RedisTimeoutError, RedisClusterException):
                if at == len(nodes):
                    raise
        raise RedisClusterException("the Redis Cluster names no node")

    def look_again(self, name: str | None = None) -> None:
        """Ask which node has which slots, after the one of this name did not answer, which comes last, as it
        does in later looks: they are made while it is being replaced, too.

        The nodes of the URL, where it may have another name, are asked where no known one answers. Raises one
        of REDIS_ERRORS where none of them does.
        """
        self._failed = name or self._failed
        try:
            self.nodes_manager.initialize(last_failed_node_name=self._failed)
        except RedisClusterException:
            self._add_nodes()
            self.nodes_manager.initialize(last_failed_node_name=self._failed)

    def _add_nodes(self) -> None:
        """From now on those of the URL are asked too where the nodes are."""
        manager = self.nodes_manager
        manager.startup_nodes = {
            **{node.name: node for node in self._nodes()},
            **manager.startup_nodes,
        }

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> ClusterPipeline:
        pipeline = super().pipeline(transaction, shard_hint)  # type: ignore[no-untyped-call]
        pipeline.__class__ = _ClusterPipeline  # it has methods more, and nothing else
        return cast("ClusterPipeline", pipeline)

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Instead of redis-py's own for this command, as a client of one server has it."""
        self._callbacks[command] = callback

    def get_redis_connection(self, node: ClusterNode) -> Redis:
        client: Redis = super().get_redis_connection(node)
        callbacks: Any = client.response_callbacks
        callbacks.update(self._callbacks)
        return client

    def register_script(self, script: str) -> _Script:  # type: ignore[override]
        return _Script(self, script)

    def probe(self, node: ClusterNode) -> None:
        """Connect to a node anew, as it may say nothing. Raises one of REDIS_ERRORS after PROBE_S."""
        settings = {**self._settings, "socket_timeout": PROBE_S, "socket_connect_timeout": PROBE_S}
        connection: Any = ConnectionPool(host=node.host, port=node.port, **settings).make_connection()
        try:
            connection.connect()
        except REDIS_ERRORS:
            self.look_again(node.name)
            raise
        finally:
            connection.disconnect()

    def pool_of_a_node(self) -> ConnectionPool:
        """As that of each node."""
        host, port = self._address.places[0]
        return ConnectionPool(host=host, port=port, **self._settings)

    def close(self) -> None:
        """Close the connections to all nodes, which redis-py's own leaves open."""
        if self.__dict__.get("_made"):
            super().close()
            manager = self.nodes_manager
            _disconnect([*manager.nodes_cache.values(), *manager.startup_nodes.values()])


def _disconnect(nodes: Iterable[ClusterNode]) -> None:
    for node in nodes:
        if node.redis_connection is not None:
            node.redis_connection.connection_pool.disconnect()
