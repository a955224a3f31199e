"""Whether Redis gave out the epoch of an entry: what was added by hand must not move a trader's state."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from risk_producer.contract.keys import Keys
from risk_producer.contract.scripts import number_in
from risk_worker.drain.batch import Batch, DeadLetter, Row, not_given_out

log = logging.getLogger("riskstream.epochs")


class Epochs:
    """The newest epoch of each trader of one partition, as far as a worker has asked. Not thread-safe.

    Redis is asked only for traders with a newer epoch than any that was seen before, and each time for those
    whose epoch cannot be read: what is stored unexamined meanwhile is not taken for examined later.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._newest: dict[str, int] = {}
        self._unreadable: set[str] = set()

    def unknown(self, batch: Batch) -> list[str]:
        """The traders of which Redis has to be asked before reject()."""
        return sorted({trader_id for trader_id, _ in self._not_known(batch)})

    def learn(self, traders: Sequence[str], answer: Any) -> None:
        """answer: of HMGET, for these traders; or the error."""
        if isinstance(answer, Exception):
            # The key is no hash, and what waits in the stream is stored all the same.
            log.error("The worker cannot see which epochs were given out: %s %s", self._keys.epochs, answer)
            self._unreadable.update(traders)
            return
        for trader_id, value in zip(traders, answer, strict=True):
            epoch = number_in(value)
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

    def reject(self, batch: Batch) -> None:
        """Make dead letters of snapshots whose epoch Redis did not give out."""
        rejected = {each for each in self._not_known(batch) if each[0] not in self._unreadable}
        if rejected:
            batch.reject([self._dead_letter(row) for row in batch.rows if _incarnation(row) in rejected])

    def _not_known(self, batch: Batch) -> set[tuple[str, int]]:
        """Incarnations with a newer epoch than is known of their trader."""
        newest = self._newest
        return {
            (each.trader_id, each.epoch)
            for each in batch.incarnations
            if each.epoch > newest.get(each.trader_id, 0)
        }

    def _dead_letter(self, row: Row) -> DeadLetter:
        identity = row.identity
        reason = not_given_out(identity.epoch, self._newest.get(identity.trader_id, 0))
        return DeadLetter(row.entry_id, reason, row.payload, identity=identity)


def _incarnation(row: Row) -> tuple[str, int]:
    return row.snapshot.trader_id, row.snapshot.epoch
