"""The status as text for a person and as JSON for a program."""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from risk_worker.timescale.policies import AGGREGATES, HISTORY
from risk_worker.timescale.status import Status


def as_text(status: Status) -> str:
    """For a person."""
    lines = [_line("TimescaleDB", _extension(status))]
    if status.extension.hypertable:
        lines.append(_line("history", _chunks(status)))
        if not status.extension.apache:
            lines += [_line("columnstore", _columnstore(status)), _line("aggregates", _aggregates(status))]
        else:
            lines.append(_line("aggregates", "ordinary views"))
    else:
        lines += [_line("history", "a plain table"), _line("aggregates", "ordinary views")]
    lines.append(_line("retention", _retention(status)))
    lines += [f"✗ {finding}" for finding in status.findings]
    return "\n".join(lines)


def as_json(status: Status) -> str:
    """One object."""
    return msgspec.json.format(msgspec.json.encode(asdict(status))).decode()


def _line(name: str, text: str) -> str:
    return f"{name:<14}{text}"


def _extension(status: Status) -> str:
    found = status.extension
    if found.version is not None:
        return f"{found.version}, {'Apache' if found.apache else 'Community'} edition"
    if not found.available:
        return "not on this server"
    return "not in this database" + ("" if found.loaded else ", and not in shared_preload_libraries")


def _chunks(status: Status) -> str:
    if not status.chunks or status.chunk_length is None:
        return "a hypertable without chunks"
    return (
        f"a hypertable, {status.chunks:,} chunks of {status.chunk_length.days} days "
        f"from {status.first_day} to {status.last_day}"
    )


def _columnstore(status: Status) -> str:
    if not status.columnstore:
        return "off"
    policy = next((job for job in status.jobs if job.of == HISTORY), None)
    when = "on, without a policy" if policy is None else f"on, after {_shown(policy.offset)}"
    text = f"{when}; {status.compressed:,} chunks are compressed"
    if status.bytes_after:
        times = status.bytes_before / status.bytes_after
        after, before = (f"{size / 1e6:,.1f} MB" for size in (status.bytes_after, status.bytes_before))
        text += f", {after} instead of {before} ({times:.1f} times)"
    return text


def _aggregates(status: Status) -> str:
    by_name = {job.of: job for job in status.jobs}
    return ", ".join(
        f"{name} continuous, {_reach(by_name[name].offset) if name in by_name else 'never refreshed'}"
        if name in status.continuous
        else f"{name} an ordinary view"
        for name in AGGREGATES
    )


def _reach(offset: object) -> str:
    return "refreshed from the beginning" if offset is None else f"refreshed for {_shown(offset)}"


def _retention(status: Status) -> str:
    kept = "for ever" if status.retain_for_days is None else f"for {status.retain_for_days} days"
    removed = (
        "nothing was removed" if status.expired_until is None else f"removed before {status.expired_until}"
    )
    return f"history is kept {kept}; {removed}"


def _shown(length: object) -> str:
    return str(length).removesuffix(", 0:00:00")
