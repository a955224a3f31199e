"""`riskstream doctor`: all checks, and the answer as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Final

import msgspec

from risk_producer.errors import ConfigurationError
from risk_producer.settings import Settings
from risk_worker.doctor import of_settings
from risk_worker.doctor.check import CONNECTION, Check, Finding, Link, examine, failure, worst
from risk_worker.doctor.of_postgres import Both, Database
from risk_worker.doctor.of_redis import WORKER, Queue, Streams
from risk_worker.stream import permissions

_MARKS: Final = {"ok": "✓", "warning": "!", "failure": "✗", "skipped": "-"}


def examination(environ: Mapping[str, str], role: str = WORKER) -> list[Finding]:
    """Try everything that the environment names. role: what the user of Redis is for."""
    links = [of_settings.link(environ)]
    try:
        settings = Settings.load(environ)
    except ConfigurationError:
        return examine(links)  # which say so
    redis_url, database_url = settings.redis_url, settings.database_url
    if redis_url is not None and permissions.uses_streams(role):
        links.append(Streams(redis_url, settings, role).link())
    if redis_url is not None and permissions.uses_rq(role):
        links.append(_queue(settings, role))
    if database_url is not None:
        links.append(Database(database_url, role).link())
    findings = examine(links)
    connected = {each.link for each in findings if each.check == CONNECTION and each.level == "ok"}
    if redis_url is not None and database_url is not None and connected >= {"redis", "postgres"}:
        findings += examine([Both(redis_url, database_url, settings).link()])
    return findings


def as_json(findings: Sequence[Finding]) -> str:
    """One object: the worst level, and all findings."""
    whole = {"worst": worst(findings), "findings": [asdict(each) for each in findings]}
    return msgspec.json.format(msgspec.json.encode(whole)).decode()


def as_text(findings: Sequence[Finding], style: Callable[[str, str], str] = lambda text, _level: text) -> str:
    """A line for each, and one more for what to do. style: makes a text look like its level."""
    width = max((len(f"{each.link} {each.check}") for each in findings), default=0)
    lines = []
    for each in findings:
        what = _printable(each.what)
        lines.append(
            style(f"{_MARKS[each.level]} {f'{each.link} {each.check}':<{width}}  {what}", each.level)
        )
        if each.todo:
            lines.append(f"  {'':<{width}}  → {_printable(each.todo)}")
    counts = {level: sum(each.level == level for each in findings) for level in ("failure", "warning")}
    lines.append("")
    if any(counts.values()):
        lines.append(style(_counted(counts), "failure" if counts["failure"] else "warning"))
    else:
        lines.append(style("✓ Everything is as it should be.", "ok"))
    return "\n".join(lines)


def _queue(settings: Settings, role: str) -> Link:
    try:
        return Queue(settings.require_rq_redis_url(), settings, role).link()
    except ConfigurationError as error:
        text = str(error)
        return Link("rq", [Check(CONNECTION, lambda: [failure(text)])])


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{number} {level}{'' if number == 1 else 's'}" for level, number in counts.items() if number
    )


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)[:600]
