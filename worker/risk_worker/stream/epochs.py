"""Whether Redis gave out the epoch of an entry: what was added by hand must not move a trader's state."""

from __future__ import annotations

import logging
from typing import Any, cast

import redis
from redis.exceptions import ResponseError

from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import number_in
from risk_producer.contract.wire import Identity, WireSnapshot
from risk_worker.drain.batch import Batch, DeadLetter, not_given_out

log = logging.getLogger("riskstream.epochs")


class Epochs:
    """The newest epoch of each trader of one partition, as far as a worker has asked. Not thread-safe."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._newest: dict[str, int] = {}
        self._unreadable: set[str] = set()

    def examine(self, batch: Batch) -> None:
        """Make dead letters of snapshots whose epoch Redis did not give out. Raises redis.RedisError.

        Redis is asked only for traders with a newer epoch than any that was seen before, and each time for
        those whose epoch cannot be read: what is stored unexamined meanwhile is not taken for examined later.
        """
        newest = self._newest
        unknown = {each.trader_id for each in batch.snapshots if each.epoch > newest.get(each.trader_id, 0)}
        if unknown:
            self._ask(sorted(unknown))
            reasons = [self._reason(each) for each in batch.snapshots]
            if any(reasons):
                _take_out(batch, reasons)

    def _ask(self, traders: list[str]) -> None:
        try:
            answers = cast("list[Any]", self._client.hmget(self._keys.epochs, traders))
        except ResponseError as error:
            # The key is no hash, and what waits in the stream is stored all the same.
            log.error("The worker cannot see which epochs were given out: %s %s", self._keys.epochs, error)
            self._unreadable.update(traders)
            return
        for trader_id, answer in zip(traders, answers, strict=True):
            epoch = number_in(answer)
            if epoch is not None:
                self._newest[trader_id] = max(epoch, self._newest.get(trader_id, 0))
                self._unreadable.discard(trader_id)
            elif trader_id not in self._unreadable:
                self._unreadable.add(trader_id)
                log.warning(
                    "Redis holds no epoch of trader %r that can be read: the worker stores its snapshots "
                    "without knowing whether their epoch was given out",
                    trader_id,
                )

    def _reason(self, snapshot: WireSnapshot) -> str | None:
        newest = self._newest.get(snapshot.trader_id, 0)
        if snapshot.epoch <= newest or snapshot.trader_id in self._unreadable:
            return None
        return not_given_out(snapshot.epoch, newest)


def _take_out(batch: Batch, reasons: list[str | None]) -> None:
    """Move the entries with a reason from the snapshots to the dead letters."""
    rows = list(zip(batch.ids, batch.payloads, batch.snapshots, reasons, strict=True))
    kept = [row for row in rows if row[3] is None]
    batch.ids, batch.payloads, batch.snapshots = ([row[at] for row in kept] for at in range(3))  # type: ignore[assignment]
    for entry_id, payload, s, reason in rows:
        if reason is not None:
            identity = Identity(s.trader_id, s.epoch, s.seq, s.merged)
            batch.dead.append(DeadLetter(entry_id, reason, payload, identity=identity))
