"""`riskstream timescale status`: how history is kept, and what is not as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

import psycopg

from risk_producer.settings import Settings
from risk_worker.database.extension import Extension, look, retention_policies, see_its_functions
from risk_worker.database.reader import as_of_one_moment, connected
from risk_worker.seal.expiry import last_expiry
from risk_worker.timescale.enable import is_columnstore_as_wanted
from risk_worker.timescale.policies import (
    AGGREGATES,
    HISTORY,
    SQL,
    Job,
    NotPossible,
    continuous,
    jobs,
    require_owner_with_login,
    start_offset,
)

GRACE_DAYS: Final = 2
"""So much later than they become due, rows of history are too old."""


@dataclass(slots=True)
class Status:
    """What was found."""

    extension: Extension
    chunk_length: timedelta | None = None
    chunks: int = 0
    compressed: int = 0
    first_day: str | None = None
    """Like 2026-01-31: where the first chunk begins."""
    last_day: str | None = None
    """Where the last chunk ends."""
    bytes_before: int = 0
    """Of what is compressed now."""
    bytes_after: int = 0
    columnstore: bool = False
    jobs: list[Job] = field(default_factory=list)
    continuous: list[str] = field(default_factory=list)
    """Which aggregates are not ordinary views."""
    compress_after_days: int | None = None
    retain_for_days: int | None = None
    expired_until: date | None = None
    """The UTC day before which rows were removed."""
    findings: list[str] = field(default_factory=list)
    """What is not as the settings say, or not sound; each sentence says what to do."""


def read(url: str, settings: Settings) -> Status:
    """Ask the database. Raises DatabaseUnavailable, ConfigurationError."""
    with connected(url) as connection, as_of_one_moment(connection):
        _, expired_until = last_expiry(connection)
        status = Status(
            look(connection),
            compress_after_days=settings.compress_after_days,
            retain_for_days=settings.retain_for_days,
            expired_until=expired_until,
        )
        if not status.extension.hypertable:
            if status.extension.available and status.extension.loaded:
                status.findings.append(
                    "TimescaleDB is loaded, and history is a plain table: riskstream timescale enable"
                )
            _look_for_what_is_too_old(connection, status)
            return status
        see_its_functions(connection)
        _read_hypertable(connection, status)
        _look_for_what_is_too_old(connection, status)
        status.findings += retention_policies(connection)
        if not status.extension.apache:
            _read_policies(connection, status)
    return status


def _read_hypertable(connection: psycopg.Connection, status: Status) -> None:
    [found] = connection.execute(SQL["hypertable"]).fetchall()
    status.chunk_length, status.chunks, status.compressed, status.first_day, status.last_day = found
    if status.chunk_length is not None and status.chunk_length % timedelta(days=1):
        status.findings.append(
            f"A chunk has {status.chunk_length}, and history is removed by whole chunks that end at "
            "midnight UTC: SELECT set_chunk_time_interval('risk_state_history', interval '7 days')"
        )
    if status.extension.apache and status.compressed:
        status.findings.append(
            f"{status.compressed:,} chunks are compressed, and the Apache edition cannot read them: set "
            "timescaledb.license = timescale and restart the server"
        )


def _look_for_what_is_too_old(connection: psycopg.Connection, status: Status) -> None:
    """Retention may have stopped at a day of which rows are missing, or nothing may run that removes any."""
    if status.retain_for_days is None:
        return
    days = timedelta(days=status.retain_for_days + GRACE_DAYS) + (status.chunk_length or timedelta())
    asked = {"since": status.expired_until, "before": datetime.now(UTC).date() - days}
    [(oldest,)] = connection.execute(SQL["oldest_day"], asked).fetchall()
    if oldest is not None:
        status.findings.append(
            f"Rows recorded on {oldest} should be gone by now, as RISK_RETAIN_FOR is "
            f"{status.retain_for_days}d: riskstream retain removes them, or shows what keeps it from that"
        )


def _read_policies(connection: psycopg.Connection, status: Status) -> None:
    status.columnstore = bool(connection.execute(SQL["columnstore"]).fetchall())
    status.continuous = sorted(continuous(connection))
    status.jobs = jobs(connection)
    if not status.columnstore:
        status.findings.append("The columnstore of history is off: riskstream timescale enable")
    else:
        [(status.bytes_before, status.bytes_after)] = connection.execute(SQL["sizes"]).fetchall()
        if not is_columnstore_as_wanted(connection):
            status.findings.append(
                "The columnstore has other settings than riskstream's, so late rows and seals may be slow: "
                "riskstream timescale enable"
            )
    [(chunks,)] = connection.execute(SQL["chunks_without_stored_at"]).fetchall()
    if chunks:
        status.findings.append(
            f"{chunks:,} compressed chunks have no minimum and maximum of stored_at, so sealing and "
            "verifying read them whole: after riskstream timescale enable, "
            "SELECT compress_chunk(chunk, recompress => true) for the chunks in "
            "timescaledb_information.chunk_columnstore_settings"
        )
    for name in sorted(AGGREGATES.keys() - set(status.continuous)):
        status.findings.append(f"{name} is an ordinary view: riskstream timescale enable")
    try:
        require_owner_with_login(connection)
    except NotPossible as error:
        status.findings.append(str(error))
    status.findings += _differences(status)


def _differences(status: Status) -> list[str]:
    """Where policies are not what the settings say, or do not work."""
    findings = []
    by_name = {job.of: job for job in status.jobs}
    compress = by_name.get(HISTORY)
    after = None if status.compress_after_days is None else timedelta(days=status.compress_after_days)
    if (None if compress is None else compress.offset) != after:
        findings.append(
            f"RISK_COMPRESS_AFTER is {'off' if after is None else f'{after.days}d'}, and TimescaleDB "
            + ("has no policy" if compress is None else f"compresses after {compress.offset}")
            + ": riskstream timescale policies"
        )
    wanted = start_offset(status.expired_until)
    for name in status.continuous:
        job = by_name.get(name)
        if job is None:
            findings.append(f"Nothing refreshes {name}: riskstream timescale policies")
        elif wanted is not None and (job.offset is None or job.offset > wanted):
            findings.append(
                f"{name} is refreshed further back than {status.expired_until}, before which rows were "
                "removed, and would lose their sums: riskstream timescale policies"
            )
    for job in status.jobs:
        if not job.scheduled:
            findings.append(
                f"The policy of {job.of} (job {job.number}) is switched off: "
                f"SELECT alter_job({job.number}, scheduled => true)"
            )
        elif job.failed:
            findings.append(
                f"The policy of {job.of} (job {job.number}) failed when it last ran; "
                "timescaledb_information.job_errors has the message"
            )
    return findings
