"""URLs of Postgres: read as libpq reads them, refused where a part of a password could be taken for another
part, and shown without secrets."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_producer.settings.urls import mask, postgres_connection, postgres_parameters

PIECES = st.sampled_from(
    [
        *(
            "user",
            "h1",
            "127.0.0.1",
            "[::1]",
            "%2Ftmp",
            "db",
            "5433",
            "1",
            "pass",
            "x%20y",
            "%zz",
            "%00",
            "%ff",
        ),
        *(
            ":",
            "@",
            "/",
            "?",
            "&",
            "=",
            ",",
            "#",
            "%",
            " ",
            "sslmode=require",
            "host=/tmp",
            "port=1,2",
            "ssl=true",
        ),
        *(
            "options=-csearch_path%3Drisk",
            "password=s3",
            "service=x",
            "application_name=é",
            "nonsense=1",
            "[",
            "]",
        ),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
@example("u:a#b?c@h1:5433,h2/db?sslmode=require")
@example("/db?host=/tmp&port=5433")
@example("%2Ftmp:5433/db")
@example("@/db?host=::1")
@example("h1,h2,/db")
@example("?host=h1&")
@example("?ssl=trueuser")
def test_what_is_read_is_what_libpq_reads(rest: str) -> None:
    url = f"postgresql://{rest}"
    try:
        ours = postgres_parameters(url)
    except ConfigurationError:
        return
    theirs = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    assert {key: value for key, value in ours.items() if value} == {k: v for k, v in theirs.items() if v}


@given(
    st.text(st.characters(codec="ascii", exclude_characters="@/\0%"), max_size=20),
    st.sampled_from(["h", "h:1", "[::1]:5432", "a,b:2", "%2Ftmp", ""]),
    st.sampled_from(["", "/", "/db", "/db?sslmode=disable", "?host=x&port=1", "/d?options=-c%20a%3Db"]),
)
def test_what_libpq_reads_is_not_refused(password: str, hosts: str, rest: str) -> None:
    """Any password whose / @ % are written as escapes."""
    url = f"postgresql://u:{password}@{hosts}{rest}"
    try:
        theirs = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except ProgrammingError:
        return
    assert {k: v for k, v in postgres_parameters(url).items() if v} == {k: v for k, v in theirs.items() if v}


PASSWORDS = st.text(st.sampled_from("abcXYZ0159/@#?%&=: []+,;'\"\\é"), min_size=6, max_size=24)


def pieces(password: str) -> list[str]:
    """What no message may contain: the password, and each part of it between signs that separate."""
    for sign in "/@#?&=:,":
        password = password.replace(sign, "\0")
    return [piece for piece in password.split("\0") if len(piece) >= 4]


URLS = [
    "postgresql://user:{}@db.example:5432/risk",
    "postgresql://user:{}@/risk?host=/run&port=1",
    "postgresql://user@db.example/risk?password={}&sslmode=require",
    "postgresql://user@db.example/risk?sslmode=require&password={}",
    "redis://:{}@cache.example:6379/0",
    "rediss://user:{}@cache.example/0?ssl_cert_reqs=none",
    "unix://:{}@/run/redis.sock?db=0",
    "unix:///run/redis.sock?db=0&password={}",
]


@given(PASSWORDS, st.sampled_from(URLS))
@example("1234/abcd", URLS[0])
@example("12?abcd=efgh/@", URLS[0])
@example("aaa@bbbb", URLS[2])
@example("aaaa&bbbb", URLS[2])
@example("aaaa&sslmode=cccc", URLS[3])
@example("aaaa&db=cccc", URLS[7])
@example("aaaa&client_name=cccc", URLS[7])
@example("aaaa&sslpassword=bbbb&cccc=dddd", URLS[2])
def test_no_password_is_shown(password: str, form: str) -> None:
    """However it is written, escaped or not."""
    url = form.format(password)
    shown = [mask(url)]
    name = "POSTGRES_URL" if "postgres" in form else "REDIS_URL"
    try:
        Settings.load({name: url})
    except ConfigurationError as error:
        shown.append(str(error))
    for piece in pieces(password):
        if piece in form.format(""):
            continue
        assert not any(piece in each for each in shown), shown


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
