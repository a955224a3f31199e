"""Whom the dashboard answers."""

from __future__ import annotations

import pytest

from risk_producer.errors import ConfigurationError
from risk_worker.runtime.dashboard.access import Access, access, canonical, is_loopback, is_own

LOGIN = {"RQ_DASHBOARD_USERNAME": "ops", "RQ_DASHBOARD_PASSWORD": "pä:ss"}
LOCAL = [
    *("localhost", "LOCALHOST", "localhost.", "localhost:9181", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:"),
    *("[::1]", "[::1]:9181", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"),
]
NEVER = [
    *(
        "",
        " ",
        "evil.example",
        "evil.example:9181",
        "localhost.evil.example",
        "localhost..",
        "127.0.0.1.evil.example",
    ),
    *(
        "localhost,evil.example",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost/..",
        "localhost:x",
    ),
    *(
        "127.1",
        "2130706433",
        "0x7f000001",
        "::1",
        "[::1",
        "[localhost]",
        "localhost:123456",
        "localhost\x00",
        "lócalhost",
    ),
    *("*", "localhost:80:80", "[::1%lo]", "null"),
]


@pytest.mark.parametrize("host", LOCAL)
def test_it_is_served_under_the_names_of_this_machine(host: str) -> None:
    assert Access().serves(host)
    assert access("10.0.0.5", [], {}).serves(host)


@pytest.mark.parametrize("host", NEVER)
@pytest.mark.parametrize("listens_on", ["127.0.0.1", "0.0.0.0", "::", "10.0.0.5"])
def test_it_is_served_under_no_other_name(host: str, listens_on: str) -> None:
    assert not access(listens_on, ["dash.example"], {}).serves(host)


@pytest.mark.parametrize(
    ("listens_on", "host", "serves"),
    [
        *(
            ("10.0.0.5", "10.0.0.5:9181", True),
            ("10.0.0.5", "10.0.0.6", False),
            ("127.0.0.1", "10.0.0.6", False),
        ),
        *(("0.0.0.0", "10.0.0.6", True), ("::", "10.0.0.6", True), ("[::]", "[fe80::1]:1", True)),
        *(("fe80::1", "[FE80:0::1]", True), ("dash.internal", "Dash.Internal.:80", True)),
        *(("127.0.0.1", "Dash.Example:443", True), ("127.0.0.1", "dash.example.", True)),
        *(("127.0.0.1", "a.dash.example", False), ("127.0.0.1", "[2001:db8::1]", True)),
    ],
)
def test_the_host_it_listens_on_and_those_that_are_allowed(listens_on: str, host: str, serves: bool) -> None:
    assert access(listens_on, ["DASH.example", "2001:db8::1"], {}).serves(host) is serves


@pytest.mark.parametrize(
    "host", ["http://dash.example", "dash.example:443", "*", "*.example", "", "a b", "a/b", "@"]
)
def test_an_allowed_host_is_a_name_alone(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--allow-host .* is no host"):
        access("127.0.0.1", [host], {})


def test_actions_need_a_login() -> None:
    with pytest.raises(ConfigurationError, match="--allow-actions needs a login: set RQ_DASHBOARD_USERNAME"):
        access("127.0.0.1", [], {}, allow_actions=True)
    assert access("127.0.0.1", [], LOGIN, allow_actions=True).allows_actions
    assert not access("127.0.0.1", [], LOGIN).allows_actions


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RQ_DASHBOARD_USERNAME": "ops"}, "RQ_DASHBOARD_PASSWORD is not set"),
        ({"RQ_DASHBOARD_PASSWORD": "x"}, "RQ_DASHBOARD_USERNAME is not set"),
        ({"RQ_DASHBOARD_USERNAME": "a:b", "RQ_DASHBOARD_PASSWORD": "x"}, "cannot contain a colon"),
    ],
)
def test_half_a_login_is_a_mistake(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        access("127.0.0.1", [], environ)


def test_a_login_is_known_by_both_of_its_parts() -> None:
    chosen = access("127.0.0.1", [], LOGIN)
    assert chosen.knows("ops", "pä:ss")
    others = [(None, None), ("ops", None), ("ops", ""), ("ops", "pä:ss "), ("Ops", "pä:ss"), ("", "pä:ss")]
    assert [chosen.knows(*each) for each in others] == [False] * len(others)
    assert Access().knows(None, None)


OWN = [
    *(("http://localhost:9181", "localhost:9181"), ("https://dash.example", "dash.example")),
    *(("https://dash.example", "Dash.Example.:443"), ("http://dash.example:80", "dash.example")),
    ("http://[::1]:1", "[0::1]:1"),
]
FOREIGN = [
    *(
        ("", "localhost"),
        ("null", "localhost"),
        ("http://evil.example", "localhost"),
        ("file://", "localhost"),
    ),
    *(
        ("http://localhost:1", "localhost:2"),
        ("http://localhost:9181", "localhost"),
        ("ftp://localhost", "localhost"),
    ),
    *(("http://localhost@evil.example", "localhost"), ("http://evil.example@localhost", "localhost")),
    *(
        ("http://[::1", "[::1]"),
        ("http://localhost, http://evil.example", "localhost"),
        ("localhost", "localhost"),
    ),
]


@pytest.mark.parametrize(("origin", "host"), OWN)
def test_a_page_of_its_own(origin: str, host: str) -> None:
    assert is_own(origin, host)


@pytest.mark.parametrize(("origin", "host"), FOREIGN)
def test_a_page_of_another_site(origin: str, host: str) -> None:
    assert not is_own(origin, host)


def test_addresses_that_are_written_in_several_ways() -> None:
    assert {canonical(each) for each in ("[::1]", "::1", "0:0::1")} == {"::1"}
    assert {canonical(each) for each in ("A.b.", "a.B")} == {"a.b"}
    assert [is_loopback(each) for each in ("127.9.9.9", "[::1]", "localhost", "0.0.0.0", "::", "dash")] == (
        [True] * 3 + [False] * 3
    )
