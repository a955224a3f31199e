"""The table of database errors."""

from __future__ import annotations

import psycopg.errors
import pytest

from risk_worker.database.sqlstate import TABLE, Disposition, classify, classify_error, classify_refusal

RETRY, DATA, CONFIGURATION = Disposition


@pytest.mark.parametrize(
    ("sqlstate", "disposition"),
    [
        ("08006", RETRY),  # connection failure
        ("08P01", RETRY),  # protocol violation, or what a pooler says
        ("40001", RETRY),  # serialization failure
        ("40P01", RETRY),  # deadlock
        ("53100", RETRY),  # disk full
        ("53200", RETRY),  # out of memory
        ("53300", RETRY),  # too many connections
        ("55P03", RETRY),  # lock not available
        ("57014", RETRY),  # query cancelled, statement timeout
        ("57P01", RETRY),  # admin shutdown
        ("57P03", RETRY),  # cannot connect now
        ("58030", RETRY),  # input/output error
        ("25006", RETRY),  # read-only
        ("25P02", RETRY),  # in a failed transaction
        ("XX001", RETRY),  # data corrupted
        ("TS999", RETRY),  # of an extension
        (None, RETRY),
        ("22003", DATA),  # out of range
        ("22021", DATA),  # not in the encoding
        ("22P05", DATA),  # untranslatable
        ("23502", DATA),  # not null
        ("23505", DATA),  # unique: a replay
        ("23514", DATA),  # check
        ("21000", DATA),
        ("54000", DATA),  # too large for an index row
        ("28P01", CONFIGURATION),  # wrong password
        ("3D000", CONFIGURATION),  # no such database
        ("3F000", CONFIGURATION),  # no such schema
        ("42501", CONFIGURATION),  # no privilege
        ("42P01", CONFIGURATION),  # no such table
        ("42703", CONFIGURATION),  # no such column
        ("0A000", CONFIGURATION),
        ("F0000", CONFIGURATION),
        ("P0001", CONFIGURATION),  # a trigger's RAISE
    ],
)
def test_what_an_error_means(sqlstate: str | None, disposition: Disposition) -> None:
    assert classify(sqlstate)[0] is disposition
    assert classify(sqlstate)[1]


def test_only_errors_of_a_value_or_a_rule_on_values_blame_a_row() -> None:
    blamed = {
        code[:2]
        for code in vars(psycopg.errors)["_sqlcodes"]
        if classify(code)[0] is DATA  # every code that Postgres documents
    }
    assert blamed == {"21", "22", "23", "54"}


def test_every_row_of_the_table_says_why() -> None:
    assert all(len(key) in (2, 5) and why for key, (_, why) in TABLE.items())


@pytest.mark.parametrize(
    ("refusal", "sqlstate"),
    [
        ('FATAL:  password authentication failed for user "alice"', "28P01"),
        ("fe_sendauth: no password supplied", "28P01"),
        (
            'FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "o", database "d", SSL encryption',
            "28000",
        ),
        ('FATAL:  role "ghost" does not exist', "28000"),
        ('FATAL:  database "nowhere" does not exist', "3D000"),
        ("FATAL:  sorry, too many clients already", "53300"),
        ("FATAL:  the database system is starting up", "57P03"),
        ("FATAL:  the database system is not accepting connections", "57P03"),
        ("Connection refused\n\tIs the server running on that host", None),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", None),
        ("connection timeout expired", None),
        ("server closed the connection unexpectedly", None),
    ],
)
def test_what_a_refused_connection_means(refusal: str, sqlstate: str | None) -> None:
    message = f'connection failed: connection to server at "h", port 5432 failed: {refusal}'
    found = classify_error(psycopg.OperationalError(message))
    assert found[:2] == classify(sqlstate)
    assert found.message == message.partition("\n")[0]
    assert (classify_refusal(message) is None) == (sqlstate is None)


def test_of_several_addresses_the_line_with_the_reason_is_shown() -> None:
    """libpq tried ::1 first."""
    error = psycopg.OperationalError(
        'connection failed: connection to server at "localhost" (::1), port 1 failed: Connection refused\n'
        "\tIs the server running on that host and accepting TCP/IP connections?\n"
        'connection to server at "localhost" (127.0.0.1), port 1 failed: SSL error: certificate verify failed'
    )
    found = classify_error(error)
    assert found.disposition is CONFIGURATION
    assert found.message.startswith('connection to server at "localhost" (127.0.0.1)')
    assert "the certificate of the server is not accepted" in found.reason


def test_a_value_that_speaks_of_tls_is_a_value() -> None:
    assert classify_error(psycopg.DataError("certificate verify failed")).disposition is DATA


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            psycopg.OperationalError("connection refused\nIs the server there"),
            "connection refused (the server",
        ),
        (psycopg.errors.NumericValueOutOfRange("out of range\nDETAIL: row"), "out of range (a value that"),
        (psycopg.DataError("no NUL in a text"), "no NUL in a text (a value that"),
        (psycopg.InterfaceError(), "InterfaceError (the server cannot be reached"),
    ],
)
def test_an_error_is_shown_in_one_line_with_its_reason(error: psycopg.Error, shown: str) -> None:
    assert str(classify_error(error)).startswith(shown)
    assert "\n" not in str(classify_error(error))
