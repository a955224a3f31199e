"""The maker of Redis clients: what it refuses, what it keeps, what it passes over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import redis
from prometheus_client import CollectorRegistry
from redis.maint_notifications import MaintNotificationsConfig

from risk_producer import AsyncRiskProducer, RiskProducer
from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_producer.transport.connect import (
    REDIS_ERRORS,
    NotSupported,
    ServerTooOld,
    adopt,
    check_redis_url,
    redis_client,
)

QUIET = MaintNotificationsConfig(enabled=False)
WRONG = {
    "redis://127.0.0.1:6379/0?timeout=5": "option timeout that cannot be used",
    "redis://h/0?socket_timeuot=5": "option socket_timeuot that cannot be used",
    "redis://h/0?ssl_cert_reqs=none": "needs a URL that starts with rediss://",
    "rediss://h/0?ssl_cert_reqs=maybe": "value of the option ssl_cert_reqs",
    "redis://h?db=one": "value of the option db",
    "redis://h?db": "cannot be used",
    "redis://host/abc": "a number as the database",
    "redis://host/0/1": "a number as the database",
    "redis://host/-1": "a number as the database",
    "redis://redis..internal": "neither a name nor an address",
    "redis://.internal": "neither a name nor an address",
    f"redis://{'a' * 64}.internal": "neither a name nor an address",
    f"redis://{'a.' * 130}b": "neither a name nor an address",
    "redis://ho!st": "neither a name nor an address",
    "redis://host:port": "from 1 to 65535",
    "redis://host:0": "from 1 to 65535",
    "redis://host:65536": "from 1 to 65535",
    "redis://host:٣": "from 1 to 65535",
    "redis://[::1": "neither a name nor an address",
    "redis://[::z]": "IPv6 address",
    "redis://:a%2@h": "hexadecimal",
    "redis://:a%ff@h": "not UTF-8",
    "redis://:a%00@h": "zero byte",
    "redis://ho st": "a blank",
    "redis://host\n": "a blank",
    "redis://h\udcff": "not UTF-8",
    "redis://:pa/ss@h": "%2F",
    "redis://:pa#ss@h": "%23",
    "redis://:12?ss@h": "%3F",
    "unix://run/redis.sock?nonsense=1": "nonsense",
    "unix://": "the socket's path",
    "http://h": "redis://",
    "localhost:6379": "redis://",
    "": "redis://",
}


@pytest.mark.parametrize("url", WRONG)
def test_what_can_be_known_to_be_wrong_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=WRONG[url]) as caught:
        check_redis_url(url)
    assert str(caught.value).startswith("REDIS_URL")


@pytest.mark.parametrize("kind", [RiskProducer, AsyncRiskProducer])
@pytest.mark.parametrize("url", ["redis://h/0?timeout=5", "redis://redis..internal", "redis://h/abc"])
def test_a_producer_refuses_it_when_it_is_made(kind: type[RiskProducer], url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis_url"):
        kind(url, registry=CollectorRegistry())


@pytest.mark.parametrize("setting", ["REDIS_URL", "RQ_REDIS_URL"])
def test_the_settings_refuse_it_and_name_themselves(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{setting} has an option timeout"):
        Settings.load({setting: "redis://h/0?timeout=5"})


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
    raised = [
        each
        for each in vars(redis.exceptions).values()
        if isinstance(each, type) and issubclass(each, Exception) and each.__module__.startswith("redis")
    ]
    assert len(raised) > 30
    assert [each for each in raised if not issubclass(each, REDIS_ERRORS)] == []


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


def hello(version: bytes) -> bytes:
    words = (b"$6", b"server", b"$5", b"redis", b"$5", b"proto", b":3", b"$7", b"version")
    return b"\r\n".join((b"%3", *words, b"$%d" % len(version), version, b""))


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
            pytest.raises(NotSupported, match="a node of a Redis Cluster, which is not supported yet"),
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
                redis.ConnectionError, match=r"^127\.0\.0\.1:\d+ did not answer as Redis does .* rediss://$"
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
                match=rf"did not complete a TLS handshake, {why}; .* redis://$",
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
