"""URLs of Postgres: read as libpq reads them, refused where a part of a password could be taken for another
part, and shown without secrets."""

from __future__ import annotations

import pytest

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_producer.settings.urls import mask, postgres_connection


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://h/0?socket_timeout=1&db=3", "redis://h/0?socket_timeout=1&db=3"),
        ("redis://u:secret@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:a/b#c?d@e@h:1/0", "redis://:***@h:1/0"),
        ("unix:///run/redis.sock?db=1&password=x", "unix:///run/redis.sock?db=1&password=***"),
        ("unix:///run/redis.sock?password=x&db=1", "unix:///run/redis.sock?password=***"),
        ("postgresql://h/db?password=a&sslmode=b", "postgresql://h/db?password=***"),
        ("postgresql://h/db?port=1&nonsense&host=x", "postgresql://h/db?port=1&***"),
        ("postgresql:///db?host=/run", "postgresql:///db?host=/run"),
        ("postgresql:///db?host=/run&password=a&b", "postgresql:///db?host=/run&password=***"),
        ("postgresql://u@h1:1,[::1]:2/db?options=-c%20a", "postgresql://u@h1:1,[::1]:2/db?options=-c%20a"),
        ("postgresql://u:s3cret", "postgresql://***"),
        ("postgresql://h/db?p%61ssword=x", "postgresql://h/db?p%61ssword=***"),
        ("postgresql://h/db?secretive=x", "postgresql://h/db?secretive=***"),
        ("", ""),
        ("s3cret", "***"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert mask(url) == shown


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:pa/ss@h/db", "%2F"),
        ("postgresql://u:p@ss@h/db", "%40"),
        ("postgresql://u:p%@h/db", "hexadecimal"),
        ("postgresql://u:p%ffx@h/db", "not UTF-8"),
        ("postgresql://h:http/db", "a port is a whole number"),
        ("postgresql://h:0/db", "a port is a whole number"),
        ("postgresql://h1,h2/db?port=1,2,3", "3 ports for 2 host"),
        ("postgresql://h/db?port=1,2", "2 ports for 1 host"),
        ("postgresql://h1,h2/db?hostaddr=127.0.0.1", "hostaddr has 1 addresses for 2 host"),
        ("postgresql:///db?hostaddr=127.0.0.1&port=1,2", "2 ports for 1 host"),
        ("postgresql://h/db?options=-c a=b", "%3D"),
        ("postgresql://h/db?sslmode=sometimes", "none of disable, allow"),
        ("postgresql://h/db?nonsense=1", "an option nonsense that libpq does not know"),
        ("postgresql://[::1/db", "brackets"),
        ("mysql://h/db", "postgresql://"),
        ("host=h dbname=db", "postgresql://"),
    ],
)
def test_what_is_refused_says_how_it_is_written(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        Settings.load({"POSTGRES_URL": url})
    assert str(caught.value).startswith("POSTGRES_URL")


def test_several_hosts_mean_the_one_that_can_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(url: str) -> str | None:
        return postgres_connection(url, application_name="x", connect_timeout_s=5).get("target_session_attrs")

    assert asked("postgresql://h1,h2/db") == "read-write"
    assert asked("postgresql:///db?host=h1,h2") == "read-write"
    assert asked("postgresql://h1,h2/db?target_session_attrs=any") == "any"
    assert asked("postgresql://h1/db") is None
    monkeypatch.setenv("PGHOST", "h1,h2")
    assert asked("postgresql:///db") == "read-write"
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "primary")
    assert asked("postgresql:///db") is None


def test_what_riskstream_needs_wins_over_the_url() -> None:
    url = "postgresql://h/db?client_encoding=latin1&connect_timeout=900&application_name=mine&options=-c%20a%3Db"
    said = postgres_connection(url, application_name="riskstream", connect_timeout_s=5)
    assert (said["client_encoding"], said["connect_timeout"]) == ("utf8", 5)
    assert (said["application_name"], said["options"]) == ("mine", "-c a=b")


def test_an_option_is_added_where_it_belongs() -> None:
    for url, expected in (
        ("postgresql://h/db", "postgresql://h/db?sslmode=require"),
        ("postgresql://u:a?b@h", "postgresql://u:a?b@h?sslmode=require"),
        ("postgresql:///db?host=/run", "postgresql:///db?host=/run&sslmode=require"),
        ("postgresql:///db?", "postgresql:///db?sslmode=require"),
        ("postgresql://h/db?sslmode=disable", "postgresql://h/db?sslmode=disable"),
    ):
        assert Settings(postgres_url=url, postgres_sslmode="require").database_url == expected
