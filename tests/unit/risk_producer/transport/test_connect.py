"""The maker of Redis clients: what it makes of a URL, and what it makes of what servers say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, cast

import pytest
import redis
from redis.exceptions import AuthenticationError
from redis.maint_notifications import MaintNotificationsConfig

from risk_producer.transport.connect import (
    REDIS_ERRORS,
    NotSupported,
    ServerTooOld,
    adopt,
    redis_client,
    rehearse,
)

QUIET = MaintNotificationsConfig(enabled=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"host": "localhost", "port": 6379}),
        ("redis:///3", {"host": "localhost", "db": 3}),
        ("redis://h.internal.:1/2", {"host": "h.internal.", "port": 1, "db": 2}),
        ("redis://my_host-1", {"host": "my_host-1"}),
        ("redis://b%C3%BCro.example", {"host": "büro.example"}),
        ("redis://[::1]:7/1?db=4", {"host": "::1", "port": 7, "db": 4}),
        ("redis://u%40x:p%2Fw%20%25@h", {"username": "u@x", "password": "p/w %"}),
        ("redis://:p@w@h", {"password": "p@w", "host": "h"}),
        (
            "unix:///run/redis.sock?db=2&password=p%26w",
            {"path": "/run/redis.sock", "db": 2, "password": "p&w"},
        ),
        (
            "rediss://h/0?ssl_cert_reqs=none&ssl_check_hostname=no&ssl_ca_certs=/ca.pem",
            {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": "/ca.pem"},
        ),
    ],
)
def test_what_the_url_says_about_where_and_as_whom_is_kept(url: str, expected: dict[str, object]) -> None:
    with redis_client(url, answer_timeout_s=1, connect_timeout_s=2) as client:
        said = client.connection_pool.connection_kwargs
        assert {name: said.get(name) for name in expected} == expected
        client.connection_pool.connection_class(**said)  # redis-py takes them all


@pytest.mark.parametrize(
    "option",
    [
        *("socket_timeout=0.5", "socket_connect_timeout=900", "max_connections=1", "decode_responses=true"),
        *("protocol=2", "encoding=latin-1", "health_check_interval=1", "retry_on_timeout=yes"),
    ],
)
def test_what_riskstream_relies_on_is_its_own(option: str) -> None:
    """Another program may need them in a URL that both share."""

    def made(url: str) -> dict[str, object]:
        with redis_client(url, answer_timeout_s=1, connect_timeout_s=2) as client:
            pool = client.connection_pool
            assert pool.max_connections > 10
            return {k: v for k, v in pool.connection_kwargs.items() if not k.startswith(("retry", "himport"))}

    assert made(f"redis://h/0?{option}") == made("redis://h/0")


def test_every_error_of_redis_py_is_an_outage() -> None:
    modules = (redis.exceptions, redis.sentinel, redis.cluster, redis.connection)
    raised = {
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Exception) and each.__module__.startswith("redis")
    }
    assert len(raised) > 30
    assert [each for each in raised if not issubclass(each, REDIS_ERRORS)] == []


URLS = {
    "redis://u:p@h": "h",
    "rediss://u:p@h": "h",
    "unix://u:p@/run/redis.sock": "/run/redis.sock",
    "redis+sentinel://u:p@h1,h2:1/name/2?sentinel_username=s&sentinel_password=q": "h1",
    "rediss+sentinel://u:p@h1,h2/name": "h1",
    "redis+cluster://u:p@h1,[::1]:7": "h1",
    "rediss+cluster://u:p@h1": "h1",
}


@pytest.mark.parametrize("url", URLS)
def test_every_kind_of_client_is_made_and_rehearsed_and_closed_without_a_connection(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connects(*_arguments: object, **_options: object) -> None:
        raise AssertionError("it connects")

    for name in ("connect", "create_connection", "getaddrinfo", "gethostbyname"):
        owner = socket.socket if name == "connect" else socket
        monkeypatch.setattr(owner, name, connects)
    with redis_client(url, answer_timeout_s=1, connect_timeout_s=2) as client:
        client.register_script("return 1")
        rehearse(client)
        assert "p@" not in repr(client)


def test_sentinels_and_the_master_are_asked_as_whom_the_url_says() -> None:
    url = "rediss+sentinel://u:p@h1,h2:7/name/2?sentinel_username=s&sentinel_password=q&ssl_cert_reqs=none"
    with redis_client(url, answer_timeout_s=9, connect_timeout_s=8) as client:
        pool: Any = client.connection_pool
        own = pool.connection_kwargs
        assert (own["username"], own["password"], own["db"], own["ssl_cert_reqs"]) == ("u", "p", 2, "none")
        assert (own["socket_timeout"], own["socket_connect_timeout"]) == (9, 8)
        of_sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
        assert [(each["host"], each["port"]) for each in of_sentinels] == [("h1", 26379), ("h2", 7)]
        for each in of_sentinels:
            assert (each["username"], each["password"], each["ssl_cert_reqs"]) == ("s", "q", "none")
            assert "db" not in each
            assert each["socket_timeout"] <= 1
            assert each["retry"].get_retries() == 0


def test_sentinels_that_ask_for_no_password_get_none() -> None:
    with redis_client("redis+sentinel://u:p@h/name", answer_timeout_s=1, connect_timeout_s=1) as client:
        pool: Any = client.connection_pool
        assert not pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs.get("password")


@pytest.mark.parametrize("option", ["socket_timeout=0.5", "decode_responses=true", "protocol=2"])
def test_what_riskstream_relies_on_is_its_own_for_nodes_of_a_cluster(option: str) -> None:
    with redis_client(f"redis+cluster://h?{option}", answer_timeout_s=9, connect_timeout_s=8) as client:
        said = cast("Any", client).pool_of_a_node().connection_kwargs
        assert said["socket_timeout"] == 9
        assert said["protocol"] == 3
        assert said["decode_responses"] is False


def test_a_script_goes_along_where_a_node_does_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """SCRIPT LOAD would ask all nodes, and fail with any of them."""
    asked: list[str] = []

    def answer(_client: object, command: str, *_arguments: object, **_options: object) -> int:
        asked.append(command)
        if command == "EVALSHA":
            raise redis.exceptions.NoScriptError
        return 7

    with redis_client("redis+cluster://h", answer_timeout_s=1, connect_timeout_s=1) as client:
        monkeypatch.setattr(type(client), "execute_command", answer)
        assert client.register_script("return 7")(keys=["key"], args=["a"]) == 7
    assert asked == ["EVALSHA", "EVAL"]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("form", ["redis+sentinel://{}/name", "redis+cluster://{}"])
def test_nobody_there_is_an_outage_at_each_call(form: str) -> None:
    url = form.format(f"127.0.0.1:{closed_port()},127.0.0.1:{closed_port()}")
    with redis_client(url, answer_timeout_s=1, connect_timeout_s=1, retries=1) as client:
        for _ in range(2):
            with pytest.raises(REDIS_ERRORS, match="refused"):
                client.xlen("key")
            with pytest.raises(REDIS_ERRORS, match="refused"):
                client.register_script("return 1")(keys=["key"])
            with pytest.raises(REDIS_ERRORS, match="refused"):
                client.pipeline(transaction=False).hget("key", "field").execute()


@contextmanager
def server_that_says(*answers: bytes | None) -> Iterator[str]:
    """A server that gives these answers, one to each command; then it says nothing. None: it closes the
    connection. Yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(ConnectionError):
                    for answer in answers:
                        if not connection.recv(65536) or answer is None:
                            break
                        connection.sendall(answer)
                    else:
                        connection.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def hello(version: bytes, mode: bytes = b"standalone") -> bytes:
    words = (
        b"$6",
        b"server",
        b"$5",
        b"redis",
        b"$5",
        b"proto",
        b":3",
        b"$4",
        b"mode",
        b"$%d" % len(mode),
        mode,
    )
    return b"\r\n".join((b"%4", *words, b"$7", b"version", b"$%d" % len(version), version, b""))


class TestAServer:
    @pytest.mark.parametrize(
        ("answer", "version"),
        [
            (b"-ERR unknown command 'HELLO'\r\n", "a version before 6.0"),
            (b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", "a version before 6.0"),
            (hello(b"6.0.20"), "6.0.20"),
        ],
    )
    def test_that_is_too_old_is_named_with_the_least_version(self, answer: bytes, version: str) -> None:
        with (
            server_that_says(answer) as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
            pytest.raises(
                ServerTooOld, match=f"Redis {version} is too old: riskstream needs Redis 6.2 or newer"
            ),
        ):
            client.ping()

    def test_that_wants_a_password_says_no_more_than_that(self) -> None:
        answer = (
            b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO\r\n"
        )
        with (
            server_that_says(answer) as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
            pytest.raises(AuthenticationError, match=r"^Authentication required$") as caught,
        ):
            client.ping()
        assert caught.value.status_code == "NOAUTH"

    @pytest.mark.parametrize("version", [b"6.2.0", b"7.0.15", b"10.1.0", b"unstable"])
    def test_that_is_new_enough_is_used(self, version: bytes) -> None:
        with (
            server_that_says(hello(version), b"+PONG\r\n") as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
        ):
            assert client.ping()

    @pytest.mark.parametrize(
        "answer", [b"-MOVED 1 h:2\r\n", b"-ASK 1 h:2\r\n", b"-CLUSTERDOWN x\r\n", b"-CROSSSLOT x\r\n"]
    )
    def test_of_a_cluster_is_called_that(self, answer: bytes) -> None:
        with (
            server_that_says(hello(b"7.2.4"), answer) as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
            pytest.raises(
                NotSupported, match=r"this is a node of a Redis Cluster .*: write redis\+cluster://"
            ),
        ):
            client.get("x")

    def test_that_is_a_sentinel_is_called_that(self) -> None:
        with (
            server_that_says(hello(b"7.2.4", b"sentinel")) as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
            pytest.raises(redis.ConnectionError, match=r"is a Sentinel: .* redis\+sentinel://h1:26379,"),
        ):
            client.get("x")

    def test_that_is_no_sentinel_is_called_that_and_the_next_one_is_asked(self) -> None:
        with (
            server_that_says(hello(b"7.2.4")) as first,
            server_that_says(hello(b"7.2.4", b"sentinel"), b"*0\r\n") as second,
        ):
            hosts = ",".join(url.removeprefix("redis://").removesuffix("/0") for url in (first, second))
            with (
                redis_client(
                    f"redis+sentinel://{hosts}/name", answer_timeout_s=5, connect_timeout_s=5
                ) as client,
                pytest.raises(
                    redis.ConnectionError,
                    match=r"no Sentinel names a master name: .* is no Sentinel, .*; .* masters: none",
                ),
            ):
                client.get("x")

    @pytest.mark.parametrize("answer", [b"-ERR This instance has cluster support disabled\r\n"])
    def test_that_is_no_node_of_a_cluster_is_called_that(self, answer: bytes) -> None:
        with server_that_says(hello(b"7.2.4"), answer) as url:
            place = url.removeprefix("redis://").removesuffix("/0")
            with (
                redis_client(f"redis+cluster://{place}", answer_timeout_s=5, connect_timeout_s=5) as client,
                pytest.raises(REDIS_ERRORS, match="Cluster mode is not enabled on this node"),
            ):
                client.get("x")

    @pytest.mark.parametrize(
        "answer",
        [
            b"-READONLY You can't write against a read only replica.\r\n",
            b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
            b"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n",
            b"-ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write against a "
            b"read only replica.\r\n",
            b"-LOADING Redis is loading the dataset in memory\r\n",
        ],
    )
    def test_that_is_the_wrong_one_loses_the_connection(self, answer: bytes) -> None:
        with (
            server_that_says(hello(b"7.2.4"), answer) as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
        ):
            for _ in range(2):  # the second call is answered as the first one only on a new connection
                with pytest.raises(redis.RedisError, match=r"(?i)read.only|MASTER|UNBLOCKED|loading"):
                    client.set("x", 1)

    def test_that_is_the_wrong_one_is_left_by_an_adopted_client_too(self) -> None:
        with (
            server_that_says(hello(b"7.2.4"), b"-READONLY x\r\n") as url,
            redis.Redis.from_url(
                url, decode_responses=True, driver_info=None, maint_notifications_config=QUIET
            ) as client,
        ):
            assert adopt(client) is client
            for _ in range(2):
                with pytest.raises(redis.ReadOnlyError):
                    client.set("x", 1)

    @pytest.mark.parametrize("answer", [None, b"\x15\x03\x03\x00\x02\x02\x46"], ids=["closes", "alert"])
    def test_with_tls_is_a_reason_named_where_it_does_not_answer_as_redis(self, answer: bytes | None) -> None:
        with (
            server_that_says(answer) as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
            pytest.raises(
                redis.ConnectionError, match=r"^127\.0\.0\.1:\d+ did not answer as Redis does .* rediss$"
            ),
        ):
            client.ping()

    @pytest.mark.parametrize(
        ("answer", "timeout_s", "why"),
        [
            (b"", 0.2, "it did not answer in time"),
            (None, 5, "it closed the connection"),
            (b"-ERR unknown command\r\n", 5, "its answer is not TLS"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", 5, "its answer is not TLS"),
        ],
        ids=["silent", "closes", "error", "http"],
    )
    def test_without_tls_is_a_reason_named_where_no_handshake_comes_about(
        self, answer: bytes | None, timeout_s: float, why: str
    ) -> None:
        with (
            server_that_says(answer) as url,
            redis_client(
                url.replace("redis:", "rediss:"), answer_timeout_s=timeout_s, connect_timeout_s=timeout_s
            ) as client,
            pytest.raises(
                (redis.ConnectionError, redis.TimeoutError),
                match=rf"did not complete a TLS handshake, {why}; .* redis, not rediss$",
            ),
        ):
            client.ping()

    def test_that_refuses_one_command_keeps_the_connection(self) -> None:
        with (
            server_that_says(hello(b"7.2.4"), b"-WRONGTYPE x\r\n", b"+OK\r\n") as url,
            redis_client(url, answer_timeout_s=5, connect_timeout_s=5) as client,
        ):
            with pytest.raises(redis.ResponseError):
                client.set("x", 1)
            assert client.set("x", 1)


class TestAFaultBetweenTheQuestionAndItsReply:
    """An exception of foreign code, or of a signal handler: who asks next must not read what is left over."""

    @pytest.mark.parametrize("maker", ["redis_client", "adopt"])
    @pytest.mark.parametrize("kind", ["command", "pipeline", "transaction"])
    def test_costs_the_connection(self, kind: str, maker: str) -> None:
        with server_that_says(hello(b"7.2.4"), b"", b"+old\r\n" * 8) as url, client_by(maker, url) as client:
            asked: Any = client if kind == "command" else client.pipeline(transaction=kind == "transaction")
            with interrupted(before_reply=0), pytest.raises(KeyboardInterrupt):
                asked.get("x") if kind == "command" else asked.get("x").get("y").execute()
            with pytest.raises(redis.TimeoutError):  # this server does not answer the first one at all
                client.get("next")

    def test_or_between_two_replies(self) -> None:
        with (
            server_that_says(hello(b"7.2.4"), b"+first\r\n", b"+second\r\n+third\r\n") as url,
            client_by("redis_client", url) as client,
        ):
            pipeline = client.pipeline(transaction=False).get("x").get("y")
            with interrupted(before_reply=1), pytest.raises(KeyboardInterrupt):
                pipeline.execute()
            assert client.get("x") == b"first", "of a new connection"

    def test_a_subscription_keeps_its_connection(self) -> None:
        def push(kind: bytes, last: bytes) -> bytes:
            return b">3\r\n$%d\r\n%s\r\n$1\r\nc\r\n%s\r\n" % (len(kind), kind, last)

        pushed = push(b"subscribe", b":1") + push(b"message", b"$1\r\nx") + push(b"message", b"$1\r\ny")
        with server_that_says(hello(b"7.2.4"), pushed) as url, client_by("adopt", url) as client:
            subscription = client.pubsub()
            subscription.subscribe("c")
            socket_at_first = subscription.connection._sock
            found = [subscription.get_message(timeout=5)["data"] for _ in range(3)]
            assert found == [1, b"x", b"y"]
            assert subscription.connection._sock is socket_at_first
            subscription.close()


@contextmanager
def interrupted(before_reply: int) -> Iterator[None]:
    """The reply of this number, from 0, is not read any more."""
    parse: Any = redis.Redis.parse_response
    number = count()

    def parse_response(*words: Any, **options: Any) -> Any:
        if next(number) == before_reply:
            raise KeyboardInterrupt
        return parse(*words, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis.Redis, "parse_response", parse_response)
        yield


def client_by(maker: str, url: str) -> Any:
    if maker == "redis_client":
        return redis_client(url, answer_timeout_s=0.3, connect_timeout_s=5)
    made = redis.Redis.from_url(url, driver_info=None, socket_timeout=0.3, maint_notifications_config=QUIET)
    return adopt(made)


def test_later_looks_for_the_nodes_ask_the_one_that_failed_last_too() -> None:
    """It is frozen still, while its replica takes over."""
    looks: list[str | None] = []

    class Manager:
        def initialize(self, last_failed_node_name: str | None = None) -> None:
            looks.append(last_failed_node_name)

    with redis_client("redis+cluster://h:1", answer_timeout_s=1, connect_timeout_s=1) as made:
        client = cast("Any", made)
        client.nodes_manager = Manager()
        client.look_again()
        client.look_again("h:2")
        client.look_again()
    assert looks == [None, "h:2", "h:2"]
