"""URLs of Postgres and Redis: read as libpq reads them, and no message shows a part of a password."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_producer.settings.address import redis_address
from risk_producer.settings.urls import mask, postgres_parameters

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


SECRETS = st.text(st.sampled_from("abcXYZ0159/@#?%&=:+,;'"), min_size=6, max_size=24)


@given(
    SECRETS,
    st.sampled_from(
        [
            "redis+sentinel://:{}@h1,h2:1/name/0",
            "rediss+sentinel://u:{}@h1,[::1]/name?ssl_cert_reqs=none",
            "redis+sentinel://h1,h2/name?sentinel_password={}",
            "redis+sentinel://h1,h2/name?sentinel_username=u&sentinel_password={}&db=1",
            "redis+sentinel://:{0}@h1,:{0}@h2/name",
            "redis+cluster://u:{}@h1,h2",
            "redis+cluster://h1,u:{}@h2",
        ]
    ),
)
def test_no_message_shows_a_part_of_a_secret(secret: str, form: str) -> None:
    url = form.format(secret)
    pieces = [secret]
    for sign in "/@#?&=:,;+":
        pieces = [part for piece in pieces for part in piece.split(sign)]
    shown = [mask(url)]
    try:
        shown.append(repr(redis_address(url)))
    except ConfigurationError as error:
        shown.append(str(error))
    for piece in pieces:
        if len(piece) >= 5:
            assert not any(piece in text for text in shown), shown
