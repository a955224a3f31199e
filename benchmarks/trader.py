"""A trading process on command: python -m benchmarks.trader TRADERS RATE

It saves as many snapshots as it is asked to, RATE a second, and answers when Redis has them. The first time,
and where RATE is 0, they go as quickly as they can.
"""

from __future__ import annotations

import sys
from time import perf_counter, sleep

from benchmarks.process import serve
from benchmarks.rows import snapshot
from risk_producer import RiskProducer

_SLICE_S = 0.001
"""What is due sooner is sent at once: a sleep for each would cost as much as save()."""


def main(traders: int, rate: float) -> None:
    """Obey until stdin ends. The traders take turns, from one request to the next."""
    sent = 0
    with RiskProducer.from_env() as producer:

        def work(rows: int) -> int:
            nonlocal sent
            per_s = rate if sent else 0
            began = perf_counter()
            for number in range(rows):
                if per_s and (early_s := began + number / per_s - perf_counter()) > _SLICE_S:
                    sleep(early_s)
                if not producer.save(snapshot(sent + number, traders)):
                    raise RuntimeError("save() found no room for RISK_SAVE_TIMEOUT_S")
            if not producer.flush(60):
                raise RuntimeError("flush() did not end")
            sent += rows
            return rows

        serve(work)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
