"""Every metric that `riskstream exporter` serves, in the order in which they are served.

docs/reference/metrics.md is written from it. Totals count since Redis was first used.
"""

from __future__ import annotations

from typing import Final

from risk_producer.contract import counters as names
from risk_producer.contract.metric import Metric

UP: Final = Metric(
    "risk_up",
    "gauge",
    ("server",),
    "1: the server answers. 0: it does not: `redis`, `rq` (RQ's Redis, where it is another one), "
    "`postgres` (where the exporter has a URL).",
    "0 for redis: nothing else that is kept there is served; look at Redis. 0 for postgres: look at "
    "Postgres.",
)
BUILD: Final = Metric(
    "risk_build_info",
    "gauge",
    ("version", "python"),
    "Always 1: the version of the exporter.",
    "Another version than the workers': update the older ones.",
)
READ_SECONDS: Final = Metric(
    "risk_exporter_read_seconds",
    "gauge",
    (),
    "For how long the exporter has read Redis for this page; it gives up after 5 s, and serves risk_up 0.",
    "Near 5: Redis is slow or frozen, or there are too many traders (RISK_METRICS_TRADERS_MAX).",
)
UNREADABLE: Final = Metric(
    "risk_unreadable_fields",
    "gauge",
    (),
    "Keys and fields in Redis that hold nothing that can be read, and are not served.",
    "Above 0: the exporter's log names them; delete them with HDEL or DEL, and find out which program "
    "wrote them.",
)

ACCEPTED: Final = Metric(
    "risk_snapshots_accepted_total",
    "counter",
    ("partition",),
    "Snapshots admitted to the stream, those merged into them included.",
    "Flat while traders trade: look at the traders' logs and health().",
)
CONFLATED: Final = Metric(
    "risk_snapshots_conflated_total",
    "counter",
    ("partition",),
    "Snapshots merged into a later one of their trader, which counts them in `merged`.",
    "Growing: traders' buffers are full (RISK_ON_FULL=conflate); start a worker, look at the database.",
)
FOREIGN: Final = Metric(
    "risk_snapshots_foreign_total",
    "counter",
    ("partition",),
    "Entries that were taken off the stream and that no producer had put there; they are "
    "stored or dead letters.",
    "Growing: find out which program writes into risk:{p}:snapshots.",
)
STORED: Final = Metric(
    "risk_snapshots_stored_total",
    "counter",
    ("partition",),
    "Snapshots committed to Postgres. At rest, in each partition: accepted + foreign = stored + dead + "
    "conflated + what a producer has put into the stream.",
    "Flat while risk_stream_length grows: see risk_partition_stalled_seconds.",
)
DUPLICATE: Final = Metric(
    "risk_snapshots_duplicate_total",
    "counter",
    ("partition",),
    "Snapshots delivered again after a crash and found stored already; stored counts them once.",
    "Harmless. Growing often: workers crash, or lose their connection between COMMIT and acknowledging.",
)
DEAD: Final = Metric(
    "risk_snapshots_dead_total",
    "counter",
    ("partition",),
    "Entries that could not be stored and are kept in risk_dead_letter with the reason.",
    "Growing: `riskstream dead list` has the reasons; mend the program that sends them.",
)
BATCHES: Final = Metric(
    "risk_batches_stored_total", "counter", ("partition",), "Transactions committed.", "No action."
)
RETRIED: Final = Metric(
    "risk_batches_retried_total",
    "counter",
    ("partition",),
    "Tries to store a batch that failed.",
    "Growing: the database has trouble, and the worker's log says which.",
)
LAST_COMMIT: Final = Metric(
    "risk_last_commit_timestamp_seconds",
    "gauge",
    ("partition",),
    "When a batch of the partition was last committed and acknowledged, by Redis' clock; missing before "
    "the first one.",
    "Old while risk_snapshots_accepted_total grows: nothing is stored; the worker's log says why.",
)
LAST_RESTORE: Final = Metric(
    "risk_last_restore_timestamp_seconds",
    "gauge",
    ("partition",),
    "When a worker last gave back to Redis what it had lost of the partition, by Redis' clock; missing: "
    "never.",
    "Recent: Redis came back empty, or with older data. `riskstream verify` names what is lost; look at its "
    "append-only file.",
)
LATENCY: Final = Metric(
    "risk_store_latency_seconds",
    "histogram",
    ("partition",),
    "Seconds from recorded_at to COMMIT, of all snapshots stored. In the sum one counts for an hour at the "
    "most, and those that workers of earlier versions stored do not count.",
    "Rising: too few workers, a slow database, or clocks that differ.",
)

LENGTH: Final = Metric(
    "risk_stream_length",
    "gauge",
    ("partition",),
    "Entries accepted and not yet stored, those in a worker's hands included.",
    "Near risk_stream_maxlen traders have to wait: start a worker, look at the database.",
)
MAXLEN: Final = Metric(
    "risk_stream_maxlen",
    "gauge",
    ("partition",),
    "Entries that the stream may hold: its part of the exporter's RISK_STREAM_MAXLEN, which should be the "
    "traders'.",
    "No action.",
)
OLDEST: Final = Metric(
    "risk_stream_oldest_age_seconds",
    "gauge",
    ("partition",),
    "Age of the oldest entry not yet stored; 0 when there is none.",
    "Growing: no worker drains the partition, or the database is away.",
)
STALLED: Final = Metric(
    "risk_partition_stalled_seconds",
    "gauge",
    ("partition",),
    "For how long nothing of a partition was stored while entries wait in it, or its node of a cluster "
    "does not answer; +Inf: its stream cannot be read.",
    "Above 60: the worker's log says what hinders it; where there is none, start a worker (see "
    "risk_workers).",
)
PARTITIONS: Final = Metric(
    "risk_partitions",
    "gauge",
    (),
    "How many partitions traders are divided into, as is agreed on in Redis.",
    "No action; `riskstream partitions` changes it.",
)

WORKERS: Final = Metric(
    "risk_workers",
    "gauge",
    ("state",),
    "Workers by state: `busy` (at a drain job), `idle` (stands by), `dead` (on RQ's list, and not heard "
    "of for 12 s). Missing while RQ's Redis is away.",
    "No busy one: start one, or look at Postgres, as a worker that cannot use it is on no list. dead: its "
    "host or its process has ended, and the others take over its share.",
)
PARTITION_WORKERS: Final = Metric(
    "risk_partition_workers",
    "gauge",
    ("partition",),
    "Workers that drain the partition just now; 0 for a moment between two time slices, 2 while shares "
    "change.",
    "0 for longer than 15 s: start a worker; the logs of those that run say why none takes it.",
)
COMMIT_WAIT: Final = Metric(
    "risk_commit_wait_seconds",
    "gauge",
    (),
    "For how long a worker has waited for a COMMIT, the longest of all; 0: none for 5 s.",
    "Growing: its log names what Postgres waits for (a lock, a synchronous standby), or why Postgres "
    "cannot be used.",
)
JOBS_ENQUEUED: Final = Metric(
    "risk_drain_jobs_enqueued_total",
    "counter",
    (),
    "Drain jobs put on the queue: one at the end of each time slice, and those that went missing.",
    "No action.",
)
JOBS_FAILED: Final = Metric(
    "risk_drain_jobs_failed_total",
    "counter",
    (),
    "Tries to put a drain job on the queue that failed.",
    "Growing: the worker's log says why.",
)

REDIS: Final = Metric(
    "risk_redis_info",
    "gauge",
    ("address", "version", "role", "eviction_policy", "persistence"),
    "Always 1: what each server of Redis that holds partitions says of itself.",
    "eviction_policy other than noeviction: Redis may throw the stream away; set maxmemory-policy "
    "noeviction. persistence `none`: a restart of Redis loses what is not stored yet.",
)
REDIS_WRITES: Final = Metric(
    "risk_redis_takes_writes",
    "gauge",
    ("address",),
    "Whether the server takes what traders send: 1, or 0 (maxmemory is reached, it is a replica, it wants "
    "a password, its disk is full, it does not answer). Tried with each scrape by a command that leaves "
    "nothing behind.",
    "0: the exporter's log has the reason and what to do; /readyz too.",
)
REDIS_MEMORY: Final = Metric(
    "risk_redis_memory_used_bytes",
    "gauge",
    ("address",),
    "Memory that Redis uses.",
    "Near the limit: see risk_stream_length; start a worker, or raise maxmemory.",
)
REDIS_LIMIT: Final = Metric(
    "risk_redis_memory_limit_bytes",
    "gauge",
    ("address",),
    "maxmemory of Redis; missing where there is none.",
    "No action.",
)

VERIFY_OK: Final = Metric(
    "risk_verify_success",
    "gauge",
    (),
    "Whether the last reconciliation (`riskstream verify`, every RISK_VERIFY_EVERY) came to a result: 1 "
    "or 0.",
    "0: Redis or Postgres did not answer, or it took longer than RISK_VERIFY_EVERY; the exporter's log "
    "has the reason.",
)
VERIFY_AT: Final = Metric(
    "risk_verify_timestamp_seconds",
    "gauge",
    (),
    "When the last reconciliation with a result ended; missing before the first one.",
    "Old: see risk_verify_success.",
)
VERIFY_SECONDS: Final = Metric(
    "risk_verify_duration_seconds",
    "gauge",
    (),
    "How long the last reconciliation took.",
    "Growing: seal (RISK_SEAL_EVERY), as what is sealed is not read again; or raise RISK_VERIFY_EVERY.",
)
VERIFY_RECONCILED: Final = Metric(
    "risk_verify_reconciled",
    "gauge",
    (),
    "Whether the last reconciliation found nothing wrong, but for partitions that are not drained, which "
    "have metrics of their own: 1 or 0.",
    "0: `riskstream verify` names what is wrong.",
)
LOST: Final = Metric(
    "risk_snapshots_lost",
    "gauge",
    (),
    "Snapshots that were accepted and are nowhere, by the last reconciliation.",
    "Above 0: `riskstream verify` names the trader, the epoch and the seq numbers.",
)
STORED_TWICE: Final = Metric(
    "risk_snapshots_stored_twice",
    "gauge",
    (),
    "Snapshots that are in history more than once, by the last reconciliation.",
    "Above 0: `riskstream verify` names the trader and the epoch; find out what else writes into the tables.",
)
STATES_BEHIND: Final = Metric(
    "risk_states_behind",
    "gauge",
    (),
    "Traders whose risk_state is not the newest of their history, by the last reconciliation.",
    "Above 0: `riskstream verify` names them; find out what else writes into the tables.",
)
DEAD_LETTERS: Final = Metric(
    "risk_dead_letters",
    "gauge",
    (),
    "Dead letters that wait in risk_dead_letter, by the last reconciliation.",
    "Above 0: `riskstream dead list`; `dead retry` stores them once the reason is gone, `dead drop` "
    "removes them.",
)

TRADERS: Final = Metric(
    "risk_traders",
    "gauge",
    ("state",),
    "Traders that Redis knows: `shown` (with series of their own), `left_out` (beyond "
    "RISK_METRICS_TRADERS_MAX), `silent` (nothing sent for RISK_FORGET_TRADER_AFTER).",
    "left_out above 0: raise RISK_METRICS_TRADERS_MAX, or lower RISK_FORGET_TRADER_AFTER.",
)
ATTEMPTS: Final = Metric(
    "risk_persistence_attempts_total",
    "counter",
    ("trader_id", "backend"),
    "Snapshots of a trader that workers tried to store, failed tries included.",
    "Flat while the trader trades: look at risk_stream_oldest_age_seconds.",
)
FAILURES: Final = Metric(
    "risk_persistence_failures_total",
    "counter",
    ("trader_id", "backend"),
    "Snapshots of a trader in tries that failed, and dead letters.",
    "Growing: the worker's log says why.",
)
LATENCY_MS: Final = Metric(
    "risk_persist_latency_ms",
    "gauge",
    ("trader_id", "backend"),
    "Milliseconds from recorded_at to COMMIT of the trader's newest stored snapshot.",
    "High: too few workers, a slow database, or clocks that differ.",
)
LAST_SNAPSHOT: Final = Metric(
    "risk_trader_last_snapshot_timestamp_seconds",
    "gauge",
    ("trader_id",),
    "recorded_at of the trader's newest snapshot that Redis has, stored or not.",
    "Old: the trader has ended, hangs, or cannot reach Redis; its own log and health() say which.",
)
EQUITY: Final = Metric(
    "risk_trader_equity",
    "gauge",
    ("trader_id",),
    "current_equity of the trader's newest snapshot. With RISK_METRICS_TRADERS=risk, as the next three.",
    "As the desk decides.",
)
DRAWDOWN: Final = Metric(
    "risk_trader_drawdown_percent",
    "gauge",
    ("trader_id",),
    "drawdown_pct of the trader's newest snapshot, as the trader computes it: 2.5 is 2.5 %.",
    "As the desk decides; the alert RiskTraderDrawdown has a threshold.",
)
DAILY_PNL: Final = Metric(
    "risk_trader_daily_pnl",
    "gauge",
    ("trader_id",),
    "daily_pnl of the trader's newest snapshot.",
    "As the desk decides.",
)
PAUSED: Final = Metric(
    "risk_trader_paused",
    "gauge",
    ("trader_id",),
    "Whether the trader's newest snapshot says that it has paused trading: 1 or 0.",
    "1: `riskstream state TRADER` has the reason, and until when.",
)

OF_PARTITION: Final = {
    names.ACCEPTED: ACCEPTED,
    names.CONFLATED: CONFLATED,
    names.FOREIGN: FOREIGN,
    names.STORED: STORED,
    names.DUPLICATES: DUPLICATE,
    names.DEAD: DEAD,
    names.BATCHES: BATCHES,
    names.RETRIES: RETRIED,
}
"""Field of a partition's counters -> the metric that shows it."""
METRICS: Final = tuple(each for each in globals().values() if isinstance(each, Metric))
"""All of them."""
