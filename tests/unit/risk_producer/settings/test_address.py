"""What a Redis URL means: what is refused, with words that help, and what is kept. Nothing connects."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from risk_producer import AsyncRiskProducer, RiskProducer
from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings, mask
from risk_producer.settings.address import RedisAddress, redis_address

WRONG = {
    "redis://127.0.0.1:6379/0?timeout=5": "option timeout that cannot be used",
    "redis://h/0?socket_timeuot=5": "option socket_timeuot that cannot be used",
    "redis://h/0?ssl_cert_reqs=none": "needs a URL that starts with rediss://",
    "rediss://h/0?ssl_cert_reqs=maybe": "value of the option ssl_cert_reqs",
    "rediss://h/0?ssl_keyfile=/k": "ssl_keyfile without ssl_certfile",
    "rediss://h/0?ssl_min_version=5": "value of the option ssl_min_version",
    "rediss://h/0?ssl_ciphers=nonsense": "openssl ciphers",
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
    "redis://h1,h2": "a list of hosts, which is for",
    "redis+sentinel://h1,h2": "the name by which the Sentinels know the master",
    "redis+sentinel://h1,h2/": "the name by which the Sentinels know the master",
    "redis+sentinel://h1/my master": "a blank",
    "redis+sentinel://h1/na:me": "the name by which the Sentinels know the master",
    "redis+sentinel://h1/name/x": "a number as the database after the name of the master",
    "redis+sentinel://h1/name/0/1": "a number as the database",
    "redis+sentinel:///name": "hosts with commas between them",
    "redis+sentinel://h1,,h2/name": "hosts with commas between them",
    "redis+sentinel://h1,/name": "hosts with commas between them",
    "redis+sentinel://h1,h..2/name": "neither a name nor an address",
    "redis+sentinel://h1:26379,h2:0/name": "from 1 to 65535",
    "redis+sentinel://:a@h1,:b@h2/name": "stand once, before the first host",
    "redis+sentinel://h1/name?ssl_cert_reqs=none": r"starts with rediss\+sentinel://",
    "redis+sentinel://h1/name?master_name=x": "option master_name that cannot be used",
    "redis+sentinel://h1/name?sentinel_password=": "value of the option sentinel_password",
    "redis://h1?sentinel_password=x": r"starts with redis\+sentinel://",
    "redis+cluster://": "hosts with commas between them",
    "redis+cluster://h1,h2/1": "has the database 0 alone",
    "redis+cluster://h1,h2?db=2": "has the database 0 alone",
    "redis+cluster://h1/name": "a number as the database",
    "redis+cluster://h1?read_from_replicas=true": "option read_from_replicas that cannot be used",
    "redis-sentinel://h1/name": r"redis\+sentinel://",
    "sentinel://h1/name": r"redis\+sentinel://",
    "redis+tls://h1": "rediss://",
}


@pytest.mark.parametrize("url", WRONG)
def test_what_can_be_known_to_be_wrong_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=WRONG[url]) as caught:
        redis_address(url)
    assert str(caught.value).startswith("REDIS_URL")


@pytest.mark.parametrize("kind", [RiskProducer, AsyncRiskProducer])
@pytest.mark.parametrize("url", ["redis://h/0?timeout=5", "redis://redis..internal", "redis+sentinel://h"])
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
        ("redis://", RedisAddress("server", False, (("localhost", 6379),))),
        ("rediss://[::1]:7", RedisAddress("server", True, (("::1", 7),))),
        ("unix:///run/r.sock", RedisAddress("server", False, (), socket="/run/r.sock")),
        (
            "redis+sentinel://h1,[::1]:1,h3:2/my.master-1",
            RedisAddress("sentinel", False, (("h1", 26379), ("::1", 1), ("h3", 2)), master="my.master-1"),
        ),
        ("rediss+sentinel://h/n/", RedisAddress("sentinel", True, (("h", 26379),), master="n")),
        ("redis+cluster://h1,h2:7", RedisAddress("cluster", False, (("h1", 6379), ("h2", 7)))),
        ("rediss+cluster://h1/0", RedisAddress("cluster", True, (("h1", 6379),))),
        ("redis+cluster://h1/?db=0", RedisAddress("cluster", False, (("h1", 6379),))),
    ],
)
def test_where_it_leads(url: str, expected: RedisAddress) -> None:
    assert redis_address(url) == expected


def test_as_whom_and_how_securely() -> None:
    address = redis_address(
        "rediss+sentinel://u%40x:p%2Fw@h1,h2/n/3?sentinel_username=s&sentinel_password=q%26&client_name=me"
        "&ssl_ca_certs=/ca.pem&socket_timeout=1"
    )
    assert address.options == {
        "username": "u@x",
        "password": "p/w",
        "db": 3,
        "client_name": "me",
        "ssl_ca_certs": "/ca.pem",
    }
    assert address.sentinel_options == {"username": "s", "password": "q&", "ssl_ca_certs": "/ca.pem"}
    assert not any(secret in repr(address) for secret in ("p/w", "q&"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+sentinel://u:secret@h1:1,h2/name/0", "redis+sentinel://u:***@h1:1,h2/name/0"),
        ("redis+sentinel://h1,h2/name", "redis+sentinel://h1,h2/name"),
        (
            "redis+sentinel://h1/name?sentinel_username=u&sentinel_password=secret",
            "redis+sentinel://h1/name?sentinel_username=u&sentinel_password=***",
        ),
        ("rediss+cluster://:secret@[::1]:7,h2", "rediss+cluster://:***@[::1]:7,h2"),
    ],
)
def test_what_a_message_shows(url: str, shown: str) -> None:
    assert mask(url) == shown
    assert Settings.load({"REDIS_URL": url}).shown()["REDIS_URL"] == shown


class TestRq:
    def test_on_a_cluster_is_refused_with_the_reason(self) -> None:
        with pytest.raises(ConfigurationError, match=r"^RQ_REDIS_URL names a Redis Cluster, .* cannot work"):
            Settings.load({"RQ_REDIS_URL": "redis+cluster://h"})

    def test_needs_a_url_of_its_own_where_the_stream_is_on_a_cluster(self) -> None:
        environ = {"REDIS_URL": "redis+cluster://u:secret@h"}
        settings = Settings.load(environ)  # which is enough for a trader
        with pytest.raises(
            ConfigurationError, match=r"^RQ_REDIS_URL is not set, and REDIS_URL names a Redis Cluster"
        ) as caught:
            settings.require_rq_redis_url()
        assert "secret" not in str(caught.value)
        other = Settings.load({**environ, "RQ_REDIS_URL": "redis+sentinel://h/name"})
        assert other.require_rq_redis_url() == "redis+sentinel://h/name"

    @pytest.mark.parametrize("url", ["redis://h", "unix:///s", "redis+sentinel://h/name"])
    def test_takes_the_streams_redis_otherwise(self, url: str) -> None:
        assert Settings.load({"REDIS_URL": url}).require_rq_redis_url() == url
