"""Ends a connection to Postgres at one statement after the other, as if the power of its client had gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from risk_producer.errors import RiskError


def cut_at_each_statement(work: Callable[[], object], look: Callable[[], object]) -> int:
    """Do work again and again: the first time the connection ends at the first statement of all connections,
    the second time at the second, until nothing is left to end. After each, look.

    Returns how often that was.
    """
    for nth in range(1, 1_000):
        calls = 0
        execute = psycopg.Cursor.execute

        def dying(cursor: Any, *args: Any, nth: int = nth, execute: Any = execute, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                with socket.socket(fileno=os.dup(cursor.connection.fileno())) as end:
                    end.shutdown(socket.SHUT_RDWR)
            return execute(cursor, *args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psycopg.Cursor, "execute", dying)
            try:
                work()
            except (RiskError, psycopg.Error):
                assert calls >= nth
        if calls < nth:
            return nth - 1
        look()
    raise AssertionError("it does not end")
