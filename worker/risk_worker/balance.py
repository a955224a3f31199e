"""The balance sheet: what was accepted against what stands in Postgres, counted by the database itself.

A life is (trader_id, epoch). Within one, seq runs 1, 2, 3 ... without holes; a stored row stands for its own
seq and for the `merged` ones just before it, a dead letter likewise. So the books show by themselves whether
something is missing or there twice, even where nobody knows any more how much was accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import psycopg

Life = tuple[str, int]
"""(trader_id, epoch)"""

# Every snapshot that was settled, in the order of its life. follows: 1 where it comes right after the one
# before it; more: that many less one are missing in between; less: something is there twice.
_LIVES: Final = """
    WITH settled AS (
        SELECT trader_id, epoch, seq, merged, 1 AS stored, 0 AS dead
        FROM risk_state_history
        UNION ALL
        SELECT trader_id, epoch, seq,
               coalesce((convert_from(payload, 'UTF8')::jsonb ->> 'merged')::integer, 0), 0, 1
        FROM risk_dead_letter
        WHERE trader_id IS NOT NULL AND epoch IS NOT NULL AND seq IS NOT NULL
    ), ordered AS (
        SELECT *, seq - merged - lag(seq, 1, 0::bigint)
                  OVER (PARTITION BY trader_id, epoch ORDER BY seq) AS follows
        FROM settled
    )
    SELECT trader_id, epoch, sum(stored), sum(dead), sum(merged),
           coalesce(sum(follows - 1) FILTER (WHERE follows > 1), 0),
           coalesce(sum(1 - follows) FILTER (WHERE follows < 1), 0)
    FROM ordered
    GROUP BY trader_id, epoch
    ORDER BY trader_id, epoch
"""

_IDENTITIES: Final = """
    SELECT coalesce(sum(times), 0), count(*)
    FROM (
        SELECT count(*) AS times FROM risk_state_history GROUP BY trader_id, epoch, seq
    ) AS identities
"""

# Traders whose row in risk_state is not the newest of their history, or that have only one of the two.
_STALE: Final = """
    SELECT coalesce(state.trader_id, newest.trader_id)
    FROM risk_state AS state
    FULL JOIN (
        SELECT DISTINCT ON (trader_id) *
        FROM risk_state_history
        ORDER BY trader_id, epoch DESC, seq DESC
    ) AS newest USING (trader_id)
    WHERE (state.epoch, state.seq, state.recorded_at, state.daily_pnl, state.drawdown_pct,
           state.current_equity, state.peak_equity, state.trading_paused, state.paused_until,
           state.last_reset_time, state.trace_id, state.reason)
        IS DISTINCT FROM
          (newest.epoch, newest.seq, newest.recorded_at, newest.daily_pnl, newest.drawdown_pct,
           newest.current_equity, newest.peak_equity, newest.trading_paused, newest.paused_until,
           newest.last_reset_time, newest.trace_id, newest.reason)
    ORDER BY 1
"""

_DEAD_OF_NOBODY: Final = "SELECT count(*) FROM risk_dead_letter WHERE trader_id IS NULL"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of one life. All are numbers of snapshots."""

    stored: int
    dead: int
    conflated: int
    missing: int
    repeated: int

    @property
    def settled(self) -> int:
        """What the database knows of; without a fault it is what was accepted."""
        return self.stored + self.dead + self.conflated


@dataclass(frozen=True, slots=True)
class Books:
    """The state of the whole database at one moment."""

    lives: Mapping[Life, Account]
    rows: int
    identities: int
    """How many different (trader_id, epoch, seq) the rows have."""
    stale: tuple[str, ...]
    """Traders whose risk_state is not the newest of their history."""
    dead_of_nobody: int
    """Dead letters that do not say whose they are."""

    def problems(self, accepted: Mapping[Life, int] | None = None) -> list[str]:
        """What does not balance, one sentence each; empty: nothing lost, nothing twice, no state behind.

        accepted: for lives that are over and drained, how many snapshots were accepted.
        """
        found = []
        for (trader_id, epoch), account in self.lives.items():
            if account.missing:
                found.append(f"{trader_id}, epoch {epoch}: {account.missing} missing between 1 and the last")
            if account.repeated:
                found.append(f"{trader_id}, epoch {epoch}: {account.repeated} there twice")
        if self.rows != self.identities:
            found.append(f"{self.rows} rows have only {self.identities} identities")
        found += [f"{trader_id}: risk_state is not the newest of history" for trader_id in self.stale]
        for (trader_id, epoch), count in (accepted or {}).items():
            settled = self.account((trader_id, epoch)).settled
            if settled != count:
                found.append(f"{trader_id}, epoch {epoch}: {count} accepted, but {settled} settled")
        return found

    def account(self, life: Life) -> Account:
        """Of one life; all zero where the database knows nothing of it."""
        return self.lives.get(life, Account(0, 0, 0, 0, 0))


def read(url: str) -> Books:
    """Read the books of the database at a libpq URL, as of one moment. Raises psycopg.Error."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        lives = {
            (str(trader_id), int(epoch)): Account(*(int(count) for count in counts))
            for trader_id, epoch, *counts in connection.execute(_LIVES)
        }
        [(rows, identities)] = connection.execute(_IDENTITIES)
        stale = tuple(str(trader_id) for (trader_id,) in connection.execute(_STALE))
        [(dead_of_nobody,)] = connection.execute(_DEAD_OF_NOBODY)
    return Books(lives, int(rows), int(identities), stale, int(dead_of_nobody))
