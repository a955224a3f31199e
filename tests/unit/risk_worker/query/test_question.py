"""What is asked is checked where it is made: each parameter, in each question."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from risk_worker.cli import cli
from risk_worker.query import questions
from risk_worker.query.question import BadQuestion, name_of, parameters, row_of
from risk_worker.query.questions import (
    QUESTIONS,
    Curve,
    Drawdown,
    Pnl,
)

ANY: Any = questions
"""For what mypy refuses already."""
AWARE = datetime(2026, 1, 31, 14, tzinfo=UTC)
NAIVE = datetime(2026, 1, 31, 14)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda: ANY.State(""), "trader: a trader_id must have 1..255 characters"),
        (lambda: ANY.State("x" * 256), "trader: a trader_id must have"),
        (lambda: ANY.State("a\0b"), "trader: a trader_id must not hold a NUL"),
        (lambda: ANY.State("\ud800"), "trader: a trader_id must be valid Unicode"),
        (lambda: ANY.State(7), "trader: 7 is not a trader_id"),
        (lambda: ANY.History(None), "trader is missing"),
        *(
            (lambda last=last: ANY.History("a", last), "last: .* is not a whole number from 1 to 100,000,000")
            for last in (0, -1, True, 1.0, "1.0", "", "-1", "many", "1" * 30, "²", 10**9)
        ),
        (lambda: ANY.History("a", since=NAIVE), "since: .* has no time zone"),
        (lambda: ANY.History("a", since=date(2026, 1, 31)), "since: .* is not a time like"),
        (lambda: ANY.History("a", since="soon"), "since: 'soon' is not a time like"),
        (lambda: ANY.History("a", since="today", until="yesterday"), "until: .* is not later than since"),
        (lambda: ANY.History("a", since=AWARE, until=AWARE), "until: .* is not later than since"),
        (lambda: ANY.AsOf(""), "time: '' is not a time like"),
        (
            lambda: ANY.AsOf(AWARE, known_at=AWARE - timedelta(seconds=1)),
            "known_at: .* give the same time for both",
        ),
        *(
            (lambda bucket=bucket: ANY.Curve("a", bucket), "bucket: ")
            for bucket in (
                "0s",
                "2d",
                "5",
                "-5m",
                300,
                timedelta(0),
                timedelta(days=2),
                timedelta(microseconds=1),
            )
        ),
        (lambda: ANY.Curve("a", since=None), "since is missing"),
        (lambda: ANY.Drawdown("2026-02-30"), "day: '2026-02-30' is not a day like"),
        (lambda: ANY.Drawdown("1999-12-31"), "day: 1999-12-31 is not between"),
        (lambda: ANY.Drawdown(AWARE), "day: .* is not a day like"),
        (lambda: ANY.Drawdown(date.max), "day: 9999-12-31 is not between"),
        (lambda: ANY.Pauses(until="2h ago"), "until: .* is not later than since"),
        (lambda: ANY.Pnl(week="week 5"), "week: 'week 5' is not a day like"),
        (lambda: ANY.Stale("5"), "older_than: '5' is not a length of time"),
        (lambda: ANY.Stale("999999w"), "older_than: .* is not between 1 s and 36500 days"),
        (lambda: ANY.Export(tz="Mars"), "tz: 'Mars' is no time zone"),
        (lambda: ANY.State(tz=None), "tz: None is no time zone"),
        (lambda: ANY.State(tz=UTC), "tz: .* is no time zone"),
        (lambda: ANY.State(day_ends="5pm"), "day_ends: '5pm' is not a time of the clock like 17:00"),
        (lambda: ANY.State(day_ends=None), "day_ends: None is not a time of the clock"),
        (lambda: ANY.State(day_ends=17), "day_ends: 17 is not a time of the clock"),
    ],
)
def test_what_cannot_be_asked_is_named(ask: Any, named: str) -> None:
    with pytest.raises(BadQuestion, match=named):
        ask()


def test_texts_and_values_ask_the_same() -> None:
    as_texts = Curve("a", "5m", since="2026-01-31 15:00", until="2026-02-01", tz="Europe/Berlin")
    as_values = Curve(
        "a",
        timedelta(minutes=5),
        since=AWARE,
        until=datetime(2026, 1, 31, 23, tzinfo=UTC),
        tz="Europe/Berlin",
    )
    assert as_texts.values == as_values.values
    midnights = [datetime(2026, 1, 30, 23, tzinfo=UTC) + timedelta(days=n) for n in range(3)]
    assert as_values.values["starts"] == midnights


def test_a_day_when_the_clocks_are_changed() -> None:
    values = Drawdown("2026-10-25", tz="Europe/Berlin").values
    assert values["until"] - values["since"] == timedelta(hours=25)
    week = Pnl(week="2026-10-25", tz="Europe/Berlin").values
    assert [
        (end - start) / timedelta(hours=1) for start, end in zip(week["starts"], week["ends"], strict=True)
    ] == [*(24, 24, 24, 24, 24, 24, 25)]
    assert (week["days"][0], week["days"][-1]) == (date(2026, 10, 19), date(2026, 10, 25))


def test_a_day_of_a_desk() -> None:
    desk: Any = {"tz": "America/New_York", "day_ends": "17:00"}
    values = Drawdown("2026-11-26", **desk).values
    assert (values["since"], values["until"]) == (
        datetime(2026, 11, 25, 22, tzinfo=UTC),
        datetime(2026, 11, 26, 22, tzinfo=UTC),
    )
    week = Pnl(week="2026-11-26", **desk).values
    assert week["since"] == datetime(2026, 11, 22, 22, tzinfo=UTC)  # Sunday at 17:00 Monday begins
    assert (week["days"][0], week["starts"][1]) == (date(2026, 11, 23), week["ends"][0])
    starts = Curve("a", "1d", since="2026-10-30", until="2026-11-04", **desk).values["starts"]
    assert [each.hour for each in starts] == [21, 21, 21, 22, 22, 22, 22]


def test_a_curve_of_any_span_has_days() -> None:
    for since, until in (
        ("0001-01-02", "9999-12-30"),
        ("2199-12-31", None),
        ("9999-12-31", None),
        ("0001-01-02", "0001-01-03"),
    ):
        starts = Curve("a", since=since, until=until).values["starts"]
        assert starts == sorted(starts) and starts


@pytest.mark.parametrize("question", QUESTIONS, ids=name_of)
def test_each_question_is_a_command_with_its_parameters(question: Any) -> None:
    shown = CliRunner().invoke(cli, [name_of(question), "--help"])
    assert shown.exit_code == 0
    for name, (parameter, _) in parameters(question).items():
        assert (name.upper() if parameter.positional else f"--{name.replace('_', '-')} ") in shown.output
    assert row_of(question).__struct_fields__


@pytest.mark.parametrize(
    "command",
    [
        ["history"],
        ["history", "a", "--last", "x"],
        ["asof"],
        ["asof", "noon"],
        ["curve", "a", "--bucket", "1"],
        ["drawdown", "--day", "a"],
        ["pnl", "--week", "a"],
        ["pauses", "--since", "14:05 Berlin"],
        ["stale", "--older-than", "1"],
        ["state", "a", "--tz", "Mars"],
        ["pnl", "--day-ends", "5pm"],
        ["state", "a", "--format", "xml"],
        ["state", ""],
        ["export", "--format", "parquet"],
        ["export", "--format", "table"],
    ],
    ids=" ".join,
)
def test_a_command_that_is_asked_wrongly_says_so(command: list[str]) -> None:
    done = CliRunner().invoke(cli, command, env={"POSTGRES_URL": "postgresql://u@127.0.0.1:1/d"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


def test_a_desk_is_set_by_the_environment() -> None:
    environ = {"POSTGRES_URL": "postgresql://u@127.0.0.1:1/d"}
    for name, value, expected in (
        ("RISK_TZ", "Mars", "RISK_TZ: 'Mars' is no time zone"),
        ("RISK_TZ", "a b", "RISK_TZ expects a time zone like"),
        ("RISK_DAY_ENDS", "5pm", "RISK_DAY_ENDS expects a time of the clock like 17:00"),
    ):
        done = CliRunner().invoke(cli, ["state"], env={**environ, name: value})
        assert done.exit_code == 2
        assert expected in done.stderr
