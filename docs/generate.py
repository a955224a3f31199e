"""Writes docs/reference from the code: `make reference`. A test compares the two.

Everything comes from what the program itself declares: the commands, the settings, the metrics as they are
served, the docstrings of errors and keys, the struct of the wire, and db/schema.sql.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click
import msgspec

import risk_producer
from risk_producer import RiskError, RiskSnapshot, Settings
from risk_producer.contract.keys import NO_NAMESPACE, Keys, Keyspace
from risk_producer.contract.metric import Metric
from risk_producer.contract.wire import VERSION, WireSnapshot
from risk_producer.metrics import METRICS as PRODUCER_METRICS
from risk_producer.settings.pairs import PAIRS
from risk_worker.cli import cli
from risk_worker.monitor.catalogue import METRICS as EXPORTER_METRICS
from risk_worker.stream.permissions import KEY, Rule, roles, shape

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
PACKAGES: Final = [
    name for name in ("risk_producer", "risk_worker", "risk_devkit") if find_spec(name) is not None
]
NOTE: Final = "<!-- Written by `make reference` from the code; do not edit. -->\n"


# What a trader imports


def api_page() -> str:
    """The public names of risk_producer, with the calls of each class."""
    parts = [
        "# Python interface",
        "`risk_producer` is all that a trading process imports; it needs no other module of riskstream. "
        "[producer.md](../producer.md) explains it with examples, [errors.md](errors.md) has the errors, "
        "[settings.md](settings.md) the settings.",
    ]
    for name in risk_producer.__all__:
        public = getattr(risk_producer, name)
        if inspect.isclass(public) and issubclass(public, Exception):
            continue
        arguments = _arguments(public) if inspect.isroutine(public) else ""
        parts.append(f"## {name}{arguments}\n\n{_sentence(public)}")
        if inspect.isclass(public):
            fields = [each for each in _fields(public) if public is not Settings]
            if fields:
                parts.append("Fields: " + ", ".join(f"`{each}`" for each in fields) + ".")
            rows = list(_members(public))
            if rows:
                parts.append(_table(("Member", "Meaning"), rows))
    return _page(*parts)


def _fields(public: type) -> list[str]:
    """Of a dataclass or a struct."""
    names: Any = getattr(public, "__struct_fields__", getattr(public, "__dataclass_fields__", ()))
    return [name for name in names if not name.startswith("_")]


def _members(public: type) -> Iterator[tuple[str, str]]:
    """Fields, calls and properties that have a docstring, those of its bases included."""
    for name, each in sorted(inspect.getmembers_static(public)):
        if name.startswith("_"):
            continue
        plain = inspect.unwrap(getattr(public, name))
        if isinstance(each, property) and each.fget is not None and each.fget.__doc__:
            yield f"`{name}`", _sentence(each.fget)
        elif inspect.isroutine(plain) and plain.__doc__:
            awaited = "await " if inspect.iscoroutinefunction(plain) else ""
            yield f"`{awaited}{name}{_arguments(plain)}`", _sentence(plain)


def _arguments(call: Any) -> str:
    """The arguments without their types: docstrings and type checkers have these."""
    signature = inspect.signature(call)
    plain = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in signature.parameters.values()
        if each.name not in ("self", "cls")
    ]
    return str(inspect.Signature(plain))


# The command line


EXIT_1: Final = {
    "riskstream status": "there is a problem, and it is named",
    "riskstream doctor": "a check failed",
    "riskstream worker": "the worker did not finish its batch within RISK_DRAIN_TIMEOUT_S, or it ended "
    "without being asked to",
    "riskstream dead show": "there is no such dead letter",
    "riskstream dead retry": "some dead letters still cannot be stored, or there is no such dead letter",
    "riskstream dead drop": "there is no such dead letter, or the question was answered with no",
    "riskstream verify": "something is off, and it is named; or the trader is unknown",
    "riskstream push": "at least one record is not a snapshot, or was not sent",
    **dict.fromkeys(
        (f"riskstream {name}" for name in ("state", "history", "asof", "curve", "pauses", "pnl", "export")),
        "nothing is stored of that trader",
    ),
    "riskstream report": "the report is written, and what verify found is not good",
    "riskstream demo": "the totals do not reconcile, or a process of the demo failed",
}
"""What exit status 1 means, where a command has an answer that can be bad."""


def cli_page() -> str:
    """Each command's --help."""
    parts = [
        "# Command line",
        "| Exit status | Meaning |\n|---|---|\n"
        "| 0 | The command was carried out, and all is well |\n"
        "| 1 | The command was carried out, and the answer is bad; or an extra of the installation is "
        "missing, and "
        "the message names it |\n"
        "| 2 | It was asked wrongly, or Redis, Postgres or a file could not be asked |\n"
        "| 130, 143, 141 | It was ended by Ctrl-C, by SIGTERM, or by a closed pipe |",
    ]
    commands = dict(_commands(cli, None, "riskstream"))
    if gone := EXIT_1.keys() - commands.keys():
        raise LookupError(f"EXIT_1 in {__file__} names commands that there are not: {sorted(gone)}")
    for path, text in commands.items():
        parts.append(f"## {path}\n\n```\n{text}\n```")
        if path in EXIT_1:
            parts.append(f"Exit status 1: {EXIT_1[path]}.")
    return _page(*parts)


def _commands(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    """(path, help) of a command and all below it."""
    context = click.Context(
        command,
        parent=parent,
        info_name=name,
        terminal_width=100,
        max_content_width=100,
        **command.context_settings,
    )
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield context.command_path, text
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            if below is not None:
                yield from _commands(below, context, each)


# Settings


READERS: Final = {
    "REDIS_URL": "traders, workers, commands",
    "RISK_STREAM_MAXLEN": "traders, push, exporter",
    "PERSISTENCE_BACKEND": "traders, push",
    "ENABLE_PERSISTENCE": "traders, push",
    **dict.fromkeys(
        ("POSTGRES_URL", "DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME", "POSTGRES_SSLMODE"),
        "traders (load() alone), workers, commands",
    ),
    "RISK_NAMESPACE": "traders, workers, commands",
    "RISK_NAMESPACES": "workers, commands; traders refuse it in place of RISK_NAMESPACE",
    "RISK_PARTITIONS": "traders, workers, commands",
    "RQ_REDIS_URL": "workers, exporter, dashboard",
    **dict.fromkeys(
        (
            *("RISK_BUFFER_SIZE", "RISK_SAVE_TIMEOUT_S", "RISK_ON_FULL"),
            *("RISK_SPOOL_DIR", "RISK_SPOOL_FSYNC", "RISK_SPOOL_MAX_BYTES", "RISK_REPLICAS"),
        ),
        "traders, push",
    ),
    **dict.fromkeys(
        (
            *("RISK_BATCH_SIZE", "RISK_FLUSH_INTERVAL_MS", "RISK_MAX_RETRIES"),
            *("RISK_BACKOFF_BASE_MS", "RISK_BACKOFF_CAP_MS", "RISK_DRAIN_TIMEOUT_S"),
        ),
        "workers",
    ),
    "RISK_MIGRATE": "workers",
    "RISK_DBMATE": "workers, migrate, import-original",
    "RISK_SEAL_EVERY": "workers, seal run",
    "RISK_COMPRESS_AFTER": "timescale",
    "RISK_RETAIN_FOR": "workers, retain, timescale status",
    "RISK_QUERY_TIMEOUT_S": "questions",
    **dict.fromkeys(
        (
            *("RISK_VERIFY_EVERY", "RISK_METRICS_TRADERS", "RISK_METRICS_TRADERS_MAX"),
            "RISK_FORGET_TRADER_AFTER",
        ),
        "exporter",
    ),
    "RISK_HEALTH_LISTEN": "workers",
    "RISK_TZ": "questions",
    "RISK_DAY_ENDS": "questions",
    **dict.fromkeys(("RISK_LOG_LEVEL", "RISK_LOG_FORMAT"), "worker, exporter, dashboard, migrate"),
}
"""Which processes read a setting. `riskstream config` shows all of them."""
UNITS: Final = {
    "RISK_PARTITIONS": "partitions",
    "RISK_STREAM_MAXLEN": "entries",
    "RISK_BUFFER_SIZE": "snapshots",
    "RISK_BATCH_SIZE": "snapshots",
    "RISK_MAX_RETRIES": "tries",
    "RISK_REPLICAS": "replicas",
    "RISK_METRICS_TRADERS_MAX": "traders",
}
"""Units of the numbers whose names do not end with one."""
_SUFFIXES: Final = {"_S": "seconds", "_MS": "milliseconds", "_BYTES": "bytes"}
OTHERS: Final = """\
Three variables are no settings of the list, and have no key in the JSON file:

| Variable | Meaning | Read by |
|---|---|---|
| `RISK_CONFIG` | Path of a JSON file with settings | traders, workers, commands |
| `RQ_DASHBOARD_USERNAME` | Login of `riskstream dashboard`, where both are set | dashboard |
| `RQ_DASHBOARD_PASSWORD` | Its password (secret) | dashboard |"""


TOGETHER: Final = (
    "## Settings that make no sense together",
    "Each of these is a ConfigurationError that names both variables, in every process that may use them: "
    "traders (`from_env()` and `riskstream push`), workers, or all. Traders and workers may share one "
    "environment, so any other process logs the contradiction once, and goes on. The arguments of "
    "`RiskProducer` and `AsyncRiskProducer` follow the same rules.",
)
NO_ERROR: Final = (
    "`DB_HOST` and `DB_PORT` may be lists: one port serves all hosts, or each host has its own; all else "
    "is an error, as it is in a URL.",
    "What merely has no effect is no error. `PERSISTENCE_BACKEND=memory` and `ENABLE_PERSISTENCE=false` are "
    "switches: all other settings may stay as they are. `POSTGRES_URL` takes precedence over `DB_*`. With "
    "`RISK_ON_FULL=refuse`, `RISK_SAVE_TIMEOUT_S` is for `push()` alone. A buffer or a batch may be larger "
    "than the stream.",
)


def pairs() -> list[tuple[str, str, str, str]]:
    """Both variables, which processes end, and why, in the order of declaration."""
    env = {field: f"`{meta['env']}`" for field, meta in Settings.declared().items()}
    return [
        (
            env[pair.first],
            env[pair.second],
            f"{pair.role}s" if pair.role else "all",
            _capital(pair.reason.format(first=env[pair.first], second=env[pair.second])) + ".",
        )
        for pair in PAIRS
    ]


def settings_page() -> str:
    """Every setting, from its declaration."""
    declared, defaults = Settings.declared(), Settings().shown()
    if differ := READERS.keys() ^ {meta["env"] for meta in declared.values()}:
        raise LookupError(f"READERS in {__file__} and the declared settings differ in {sorted(differ)}")
    [struct] = [msgspec.inspect.type_info(Settings)]
    rows = []
    for field in struct.fields:  # type: ignore[attr-defined]
        name = declared[field.name]["env"]
        kind = _unwrapped(field.type)
        rows.append(
            (
                f"`{name}`",
                _kind(kind),
                defaults[name],
                unit_of(name, kind),
                declared[field.name]["description"].replace("|", "\\|")
                + (" (secret)" if declared[field.name]["secret"] else ""),
                READERS[name],
            )
        )
    return _page(
        "# Settings",
        "A setting comes from the environment, else from the JSON file that `RISK_CONFIG` names (the key "
        "is the "
        "variable's name in lower case; `enable_persistence` stands under `feature_flags`), else from its "
        "default. "
        "A value that a setting does not take is a ConfigurationError, which names the variable and what "
        "it expects. "
        "A secret setting may stand in a file instead, which NAME`_FILE` names, and so may "
        "`RQ_DASHBOARD_PASSWORD` ([secrets.md](../operate/secrets.md)). "
        "`riskstream config` prints the settings in force, masks those that are secret, and names the file "
        "that one comes from.",
        _table(("Variable", "Type", "Default", "Unit", "Meaning", "Read by"), rows),
        OTHERS,
        *TOGETHER,
        _table(("Variable", "With", "An error in", "Why it is an error"), pairs()),
        *NO_ERROR,
    )


def unit_of(name: str, kind: Any) -> str:
    """The unit of a setting that is a number, else nothing. Raises KeyError where none is known."""
    if not isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        return ""
    for suffix, unit in _SUFFIXES.items():
        if name.endswith(suffix):
            return unit
    return UNITS[name]


def _unwrapped(kind: Any) -> Any:
    """The type without its metadata and without None."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _unwrapped(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        [kind] = [each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)]
    return kind


def _kind(kind: Any) -> str:
    match kind:
        case msgspec.inspect.LiteralType():
            return " or ".join(f"`{value}`" for value in kind.values)
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.StrType():
            return "text"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            text = "whole number" if isinstance(kind, msgspec.inspect.IntType) else "number"
            text += f" from {kind.ge:,}" if kind.ge is not None else ""
            text += f" above {kind.gt:,}" if kind.gt is not None else ""
            return text + (f" to {kind.le:,}" if kind.le is not None else "")
    raise TypeError(f"{kind} has no name yet in the reference")


# Metrics


def metrics_page() -> str:
    """What the exporter and a producer serve."""
    return _page(
        "# Metrics",
        "Labels: `trader_id`; `backend` is `postgres` or `memory`; `partition` is 0, 1, …, or "
        "desk1/0 with several namespaces, where series of traders have `namespace` too; `address` is a "
        "server of Redis as the exporter reaches it. [alerts.md](../operate/alerts.md) has what to do about "
        "each alert that is made of them.",
        "## Served by `riskstream exporter`",
        "They come from Redis, where the workers count with each acknowledgement, so that they outlive "
        "every process. Totals count since Redis was first used. A metric that there is nothing to say of is "
        "left out.",
        _metrics(EXPORTER_METRICS),
        "## In the trader's own registry",
        "Every producer of a process is summed up in the Prometheus registry that it was given "
        "(`registry=`; Prometheus' own by default). The trader serves it. "
        'With `backend="memory"` they count what '
        "only the trader's memory held.",
        _metrics(PRODUCER_METRICS),
    )


def _metrics(metrics: Sequence[Metric]) -> str:
    return _table(
        ("Name", "Type", "Labels", "Meaning", "What to do"),
        [
            (
                f"`{each.name}`",
                each.kind,
                ", ".join(f"`{name}`" for name in each.labels),
                each.meaning,
                each.action,
            )
            for each in metrics
        ],
    )


# Errors


def errors_page() -> str:
    """The tree of errors."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    public = [each for each in _subclasses(RiskError) if each.__name__ in risk_producer.__all__]
    advice = dict(re.findall(r"^[├└]── (\w+) +(.*)$", inspect.getmodule(RiskError).__doc__ or "", re.M))
    others = [each for each in _subclasses(RiskError) if each not in public]
    return _page(
        "# Errors",
        f"`risk_producer.RiskError`: {_sentence(RiskError)} A trader's calls raise these errors, and "
        "none of Redis or of a driver.",
        _table(
            ("Error", "Raised when", "What to do"),
            [(_error(each), _sentence(each), _capital(advice[each.__name__])) for each in public],
        ),
        "After push(), StreamFull and ProducerClosed mean that the snapshot was not accepted; "
        "StreamUnavailable means "
        "that it was accepted, and that it is sent once Redis answers.",
        "## Errors of the commands",
        "They are RiskErrors too. A command prints the message, which says what to do, and ends with exit "
        "status 2 "
        "(1 where the answer is bad: see [cli.md](cli.md)).",
        _table(("Error", "Raised when"), [(f"`{each.__name__}`", _sentence(each)) for each in others]),
    )


def _error(kind: type[Exception]) -> str:
    """Its name, and what else it is."""
    also = [base.__name__ for base in kind.__bases__ if not issubclass(base, RiskError)]
    return f"`{kind.__name__}`" + (f" (also a {', '.join(also)})" if also else "")


def _subclasses(kind: type[Exception]) -> list[type[Exception]]:
    """All below it, by name within a level, without private ones and those of tests."""
    found: list[type[Exception]] = []
    for each in sorted(kind.__subclasses__(), key=lambda each: each.__name__):
        found += [each, *_subclasses(each)]
    return [
        each for each in found if each.__name__[0] != "_" and each.__module__.partition(".")[0] in PACKAGES
    ]


def _sentence(documented: Any) -> str:
    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    return text if text.endswith(".") else f"{text}."


# The wire contract


def schema() -> dict[str, Any]:
    """JSON Schema of the value of a stream entry's field `s`."""
    [found] = msgspec.json.schema(WireSnapshot)["$defs"].values()
    meanings = wire_meanings()
    for name, field in found["properties"].items():
        field["description"] = meanings[name]
        for each in (field, *field.get("anyOf", ())):
            if each.get("format") == "date-time":
                each["pattern"] = r"([Zz]|[+-]\d{2}:?\d{2})$"
    found["properties"]["v"] = {"const": VERSION, "description": meanings["v"]}
    found["properties"]["trader_id"]["pattern"] = found["properties"]["trace_id"]["pattern"] = "^[^\\u0000]*$"
    found["properties"]["reason"]["pattern"] = "^[^\\u0000]*$"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A stream entry of riskstream, version {VERSION}",
        "description": "The JSON in field s of an entry of risk:{p}:snapshots, and in the hash "
        "risk:{p}:latest.",
        "type": "object",
        "properties": found["properties"],
        "required": found["required"],
    }


def wire_meanings() -> dict[str, str]:
    """field -> meaning: those of RiskSnapshot's docstring, and of the identity."""
    text = inspect.getdoc(RiskSnapshot) or ""
    listed = re.findall(r"^(\w+) {2,}(\S.*(?:\n {10,}\S.*)*)", text, re.M)
    return {
        **{name: _capital(" ".join(meaning.split()).replace("None", "null")) for name, meaning in listed},
        "v": "Version of the contract",
        "trader_id": "Whose snapshot it is",
        "epoch": "Incarnation of the producer for this trader, given out by Redis; a newer one fences an "
        "older one",
        "seq": "Counts the trader's snapshots within the epoch without gaps: 1, 2, 3, …",
        "last_reset_time": "When daily_pnl was last set to zero",
        "recorded_at": "When the snapshot was taken, by the trader's clock; in the years 2000 to 2199 (UTC)",
        "merged": "How many older snapshots this one stands for: seq - merged up to seq - 1; left out "
        "where it is 0",
    }


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def wire_page() -> str:
    """The contract for a reader."""
    page = schema()
    rows = [
        (
            f"`{name}`",
            _json_type(field),
            "yes" if name in page["required"] else "no",
            field["description"],
        )
        for name, field in page["properties"].items()
    ]
    return _page(
        f"# Wire contract, version {VERSION}",
        "An entry of the stream has one field, `s`, with a JSON object in UTF-8. "
        "[wire.schema.json](wire.schema.json) is its JSON Schema (draft 2020-12). tests/golden has a file "
        "for "
        "each released version, and such a file never changes.",
        _table(("Field", "Type", "Required", "Meaning"), rows),
        "The producer writes every field but `merged`, which it leaves out where it is 0. A reader passes "
        "over fields "
        "that it does not know. Rules that the schema cannot say:\n\n"
        "- `merged` is less than `seq`.\n"
        "- `recorded_at` lies in the years 2000 to 2199 in UTC, and the other times in the years 1 to 9999.\n"
        "- Numbers are finite: 1e999 is refused. Integers are written as such: 1.0 is refused.\n"
        "- Texts are valid Unicode: half of a surrogate pair is refused.\n\n"
        "An entry that breaks a rule, and a version that the worker does not know, becomes a dead letter "
        "with its "
        "original bytes. [upgrade.md](../upgrade.md) says which versions work together.",
    )


def _json_type(field: dict[str, Any]) -> str:
    if "const" in field:
        return str(field["const"])
    if "anyOf" in field:
        return " or ".join(_json_type(each) for each in field["anyOf"])
    text = str(field["type"])
    if "format" in field:
        return "time with an offset, RFC 3339"
    if "maxLength" in field:
        text += f", {field.get('minLength', 0)} to {field['maxLength']} characters, no NUL"
    if "maximum" in field:
        text += f", {field['minimum']} to {field['maximum']}"
    return text


# Tables and keys


def tables_page() -> str:
    """Tables and columns, from db/schema.sql."""
    sql = (ROOT / "db" / "schema.sql").read_text()
    comments = {
        (kind, name): text.replace("''", "'")
        for kind, name, text in re.findall(
            r"^COMMENT ON (TABLE|COLUMN|VIEW|FUNCTION) public\.(.+?) IS '((?:[^']|'')*)';", sql, re.M
        )
    }
    keys = dict(
        re.findall(r"ALTER TABLE ONLY public\.(\w+)\n +ADD CONSTRAINT \w+ PRIMARY KEY \((.*?)\);", sql)
    )
    parts = [
        "# Tables",
        "What the migrations add up to (db/schema.sql), with the comments that stand in the database. "
        "`schema_migrations` is dbmate's: which migrations are applied.",
    ]
    for table, body in re.findall(r"^CREATE TABLE public\.(\w+) \(\n(.*?)\n\)", sql, re.M | re.S):
        if ("TABLE", table) not in comments:
            continue
        rows = []
        for line in body.splitlines():
            column, kind = re.fullmatch(r" +(\S+) (.*?),?", line).groups()  # type: ignore[union-attr]
            if column != "CONSTRAINT":
                required = "" if "NOT NULL" in kind else "yes"
                plain, default = _column(kind)
                rows.append(
                    (f"`{column}`", plain, required, default, comments["COLUMN", f"{table}.{column}"])
                )
        parts += [
            f"## {table}",
            f"{comments['TABLE', table]}. Primary key: {keys[table]}.",
            _table(("Column", "Type", "May be NULL", "Default", "Meaning"), rows),
        ]
    views = [(f"`{name}`", text) for (kind, name), text in comments.items() if kind in ("VIEW", "FUNCTION")]
    return _page(*parts, "## Functions and views", _table(("Name", "Meaning"), views))


def _column(kind: str) -> tuple[str, str]:
    """(type, default) of a column's declaration."""
    default = re.search(r"DEFAULT (.*?)(?= NOT NULL| COLLATE|$)", kind)
    plain = re.sub(r" (NOT NULL|COLLATE \S+|DEFAULT .*?(?= NOT NULL| COLLATE|$))", "", kind)
    return plain, f"`{default[1].removesuffix('::text')}`" if default else ""


def keys_page() -> str:
    """The Redis keys of a partition, and those that a deployment has one of."""

    def rows(names: Any) -> list[tuple[str, str, str]]:
        found = []
        for name, each in vars(type(names)).items():
            if not isinstance(each, property) or not isinstance(key := getattr(names, name), str):
                continue
            if (text := _sentence(each.fget)).partition(" ")[0] != "What":
                kind, meaning = re.fullmatch(
                    r"(Stream|Hash|List|Set|String)(?:, in RQ's Redis)?:? (?:of )?(.*)",
                    text.replace("``", "`"),
                ).groups()  # type: ignore[union-attr]
                found.append((f"`{key.replace('{0}', '{p}')}`", kind.lower(), meaning))
        return found

    head = ("Key", "Type", "Holds")
    return _page(
        "# Redis keys",
        "`{p}` is the number of the partition with the braces, as in `risk:{0}:snapshots`: the braces are "
        "Redis' hash "
        "tag, so that all keys of a partition are on one node. "
        "A trader's partition is the CRC-32 of its id in UTF-8, modulo `RISK_PARTITIONS`. RQ's own keys "
        "start with "
        "`rq:`. With `RISK_NAMESPACE=desk1` every key begins with `desk1:`, as in "
        f"`{Keyspace('desk1').keys(0).snapshots}` and `{Keyspace('desk1').rq_prefix}:workers`. With "
        "`RISK_NAMESPACES=desk1,desk2` those of RQ, and those that a deployment has one of, begin with all, "
        f"as in `{Keyspace.of(['desk1', 'desk2']).rq_prefix}:workers`. "
        "No other program may write into these keys.",
        _table(head, rows(Keys(0))),
        "## In RQ's Redis, once a deployment",
        _table(head, rows(NO_NAMESPACE)),
    )


# Users of Redis


ROLES: Final = {
    "trader": "Sends snapshots, and `load()`.",
    "worker": "`riskstream worker`, or RQ's own command with DrainWorker.",
    "exporter": "`riskstream exporter`, with the reconciliation that it makes now and then.",
    "reader": "`status`, `doctor`, `verify`, `tail`, `partitions` without a number, and all questions.",
    "dashboard": "`riskstream dashboard`, to look.",
    "dashboard-actions": "`riskstream dashboard`, to requeue and delete jobs too.",
    "operator": "`repair`, `rebind`, `partitions NUMBER`, `dead retry`, and what a reader may.",
}


def users_page() -> str:
    """The users of ops/redis/users.acl."""
    parts = [
        "# Users of Redis",
        "What each user of [ops/redis/users.acl](../../ops/redis/users.acl) may do; "
        "[operate/redis-users.md](../operate/redis-users.md) says how they are set up. What is not here is "
        "refused. A command may be used on the names in its own row alone; on those behind *reads* only to "
        "read, and behind *writes* only to write. With a namespace, names begin with it.",
    ]
    for role, rules in roles().items():
        alone = sorted(each for rule in rules for each in rule.commands if KEY not in shape(each))
        rows = [(_commands_in(alone), "")]
        for rule in rules:
            with_names = [each for each in rule.commands if each not in alone]
            if with_names:
                rows.append((_commands_in(with_names), _names(rule)))
        parts.append(f"## {role}\n\n{ROLES[role]}\n\n{_table(('Commands', 'Keys and channels'), rows)}")
    return _page(*parts)


def _commands_in(names: Sequence[str]) -> str:
    return ", ".join(f"`{each.replace('|', ' ').upper()}`" for each in names)


def _names(rule: Rule) -> str:
    words = {"%R~": "*reads* ", "%W~": "*writes* ", "~": ""}
    kinds = {how: [each.removeprefix(how) for each in rule.keys if each.startswith(how)] for how in words}
    shown = [
        words[how] + ", ".join(f"`{each.replace('{*}', '{p}')}`" for each in names)
        for how, names in kinds.items()
        if names
    ]
    return "; ".join([*shown, *(f"channel `{each}`" for each in rule.channels)])


# Pages


def pages() -> dict[str, str]:
    """Name of each file in docs/reference -> its text."""
    return {
        "api.md": api_page(),
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "errors.md": errors_page(),
        "wire.md": wire_page(),
        "wire.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        "tables.md": tables_page(),
        "keys.md": keys_page(),
        "redis-users.md": users_page(),
    }


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((title, NOTE.strip(), *parts)) + "\n"


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        .replace("|  |", "| |")
        .replace("|  |", "| |")
    )


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
