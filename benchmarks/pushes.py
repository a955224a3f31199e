"""How fast one producer fills the stream, and the yardstick: pipelined XADD of the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from prometheus_client import CollectorRegistry

from benchmarks.rows import snapshot
from benchmarks.servers import Servers
from risk_producer import RiskProducer


def push_rate(servers: Servers, rows: int) -> float:
    """save() of every snapshot until Redis has the last one. Snapshots a second."""
    servers.empty()
    snapshots = [snapshot(number) for number in range(rows)]
    with RiskProducer(servers.valkey.url, registry=CollectorRegistry()) as producer:
        began = perf_counter()
        for made in snapshots:
            if not producer.save(made):
                raise RuntimeError("save() found no room for RISK_SAVE_TIMEOUT_S")
        if not producer.flush(60):
            raise RuntimeError("flush() did not end")
        return rows / (perf_counter() - began)


def raw_xadd_rate(servers: Servers, payloads: Sequence[bytes]) -> float:
    """Servers.fill() of an empty Redis. Entries a second."""
    servers.empty()
    began = perf_counter()
    servers.fill(payloads)
    return len(payloads) / (perf_counter() - began)
