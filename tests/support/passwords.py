"""Passwords that are hard to hide, every way to give one to a command, and what must not show any of it.

Each piece of each password between signs holds MARK, and nothing else does: whatever shows a part of a
password, escaped or not, shows MARK.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import redis
from click.testing import CliRunner

from risk_producer import RiskError, RiskProducer
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.query.reader import RiskReader

MARK = "zqx"
PASSWORDS = (
    "zqx/zqx@zqx:zqx",
    "zqx://zqx@zqx/zqx?zqx=zqx&zqx",
    "zqx%zqx%41zqx%zzqx+zqx",
    "#zqx?zqx#zqx;zqx,zqx",
    " zqx zqx\tzqx ",
    "zqx'zqx\"zqx$zqx`zqx\\zqx${zqx}$(zqx)",
    "zqxπ€zqx漢zqx" + "zqx" * 400,
)
AWAY = "127.0.0.1:1"


@dataclass(frozen=True)
class Site:
    """Where the servers are, and where files may be written that hold a password."""

    files: Path
    redis: str = AWAY
    """host:port of a Redis."""
    postgres: str = AWAY

    def file(self, name: str, text: str) -> str:
        path = self.files / name
        path.write_text(text)
        return str(path)


Setup = Callable[[Site, str], Mapping[str, str]]
"""An environment in which a password is, or is what the place of one has."""


def escaped(password: str) -> str:
    return quote(password, safe="")


def both(redis_url: str = "", postgres_url: str = "", **more: str) -> Setup:
    """With {raw}, the password as it is, {esc}, escaped, and {redis} and {postgres}, the servers."""

    def setup(site: Site, password: str) -> Mapping[str, str]:
        words = {"raw": password, "esc": escaped(password), "redis": site.redis, "postgres": site.postgres}
        given = {"REDIS_URL": redis_url, "POSTGRES_URL": postgres_url, **more}
        return {name: text.format(**words) for name, text in given.items() if text}

    return setup


def _file(name: str, text: str, more: str = "") -> Setup:
    """The value of one variable in a file. more: for the variable itself."""

    def setup(site: Site, password: str) -> Mapping[str, str]:
        value = text.format(raw=password, esc=escaped(password), redis=site.redis, postgres=site.postgres)
        found = {f"{name}_FILE": site.file("secret", value), "DB_HOST": "127.0.0.1", "DB_PORT": "1"}
        return found | ({name: more.format(raw=password)} if more else {})

    return setup


def _json(text: str) -> Setup:
    """A file of settings; {raw} is the password, with what JSON escapes."""

    def setup(site: Site, password: str) -> Mapping[str, str]:
        content = text.replace("RAW", json.dumps(password)[1:-1]).replace("ESC", escaped(password))
        return {"RISK_CONFIG": site.file("config.json", content)}

    return setup


MALFORMED: dict[str, Setup] = {
    "Redis: as it is, before the host": both("redis://user:{raw}@127.0.0.1:1/0"),
    "Redis: as it is, without a user": both("redis://:{raw}@127.0.0.1:1/0"),
    "Redis: as it is, as an option": both("redis://127.0.0.1:1/0?password={raw}&client_name=x"),
    "Redis: another scheme": both("reddis://user:{raw}@127.0.0.1:1/0"),
    "Redis: no scheme": both("user:{raw}@127.0.0.1:1"),
    "Redis: the password alone": both("{raw}"),
    "Redis: port": both("redis://user:{esc}@127.0.0.1:70000/0"),
    "Redis: port, as it is": both("redis://user:{raw}@127.0.0.1:70000/0"),
    "Redis: database": both("redis://user:{esc}@127.0.0.1:1/zero"),
    "Redis: the password as the database": both("redis://127.0.0.1:1/{raw}"),
    "Redis: an option that is none": both("redis://127.0.0.1:1/0?password={esc}&nonsense=1"),
    "Redis: the name of the option": both("redis://127.0.0.1:1/0?PASSWORD={esc}"),
    "Redis: host": both("redis://user:{esc}@a..b/0"),
    "Redis: TLS without TLS": both("redis://127.0.0.1:1/0?ssl_password={esc}"),
    "Sentinel: as it is": both("redis+sentinel://user:{raw}@127.0.0.1:1,127.0.0.1:2/m/0"),
    "Sentinel: no name": both("redis+sentinel://user:{esc}@127.0.0.1:1?sentinel_password={esc}"),
    "Sentinel: twice": both("redis+sentinel://user:{raw}@127.0.0.1:1,user:{raw}@127.0.0.1:2/m"),
    "cluster: as it is": both("redis+cluster://user:{raw}@127.0.0.1:1,127.0.0.1:2"),
    "cluster: database": both("redis+cluster://user:{esc}@127.0.0.1:1/3"),
    "socket: as it is": both("unix://user:{raw}@/no/such.sock?db=0"),
    "RQ's Redis: as it is": both(RQ_REDIS_URL="redis://user:{raw}@127.0.0.1:1/1"),
    "RQ's Redis: a cluster": both(RQ_REDIS_URL="redis+cluster://user:{esc}@127.0.0.1:1"),
    "Postgres: as it is, before the host": both("", "postgresql://user:{raw}@127.0.0.1:1/risk"),
    "Postgres: as it is, as an option": both(
        "", "postgresql://127.0.0.1:1/risk?password={raw}&sslmode=disable"
    ),
    "Postgres: an option in upper case": both("", "postgresql://127.0.0.1:1/risk?PASSWORD={esc}"),
    "Postgres: another scheme": both("", "mysql://user:{raw}@127.0.0.1:1/risk"),
    "Postgres: libpq's words": both("", "host=127.0.0.1 port=1 user=user password={raw}"),
    "Postgres: libpq's words, quoted": both("", "host=127.0.0.1 PASSWORD='{raw}'"),
    "Postgres: the password alone": both("", "{raw}"),
    "Postgres: port": both("", "postgresql://user:{esc}@127.0.0.1:70000/risk"),
    "Postgres: ports": both("", "postgresql://user:{esc}@h1:1,h2:2,h3/risk?port=1,2"),
    "Postgres: sslmode": both("", "postgresql://user:{esc}@127.0.0.1:1/risk?sslmode={esc}"),
    "Postgres: an option that is none": both("", "postgresql://user:{esc}@127.0.0.1:1/risk?nonsense={esc}"),
    "Postgres: TLS' password": both("", "postgresql://127.0.0.1:1/risk?sslpassword={esc}&sslmode=nonsense"),
    "Postgres: OAuth": both("", "postgresql://127.0.0.1:1/r?oauth_client_secret={esc}&sslmode=nonsense"),
    "parts: no host": both(DB_PASSWORD="{raw}"),
    "parts: ports": both(DB_HOST="h1,h2", DB_PORT="1,2,3", DB_PASSWORD="{raw}"),
    "files: both": _file("DB_PASSWORD", "{raw}", "{raw}"),
    "files: both URLs": _file("REDIS_URL", "redis://user:{esc}@127.0.0.1:1/0", "redis://user:{raw}@h"),
    "files: two lines": _file("DB_PASSWORD", "{raw}\n{raw}\n"),
    "files: a zero byte": _file("DB_PASSWORD", "{raw}\0"),
    "files: too large": _file("DB_PASSWORD", "{raw}" + "x" * 70_000),
    "files: as it is": _file("REDIS_URL", "redis://user:{raw}@127.0.0.1:1/0\n"),
    "files: no URL": _file("POSTGRES_URL", "{raw}\n"),
    "files: the password as the path": both(DB_HOST="h", DB_PASSWORD_FILE="{raw}"),
    "files: a URL as the path": both(REDIS_URL_FILE="redis://user:{esc}@h"),
    "JSON: a URL as it is": _json('{"redis_url": "redis://user:RAW@127.0.0.1:1/0"}'),
    "JSON: cut": _json('{"redis_url": "redis://user:ESC@127.0.0.1:1/0", "db_password": "RAW'),
    "JSON: no object": _json('["RAW"]'),
    "JSON: an unknown key": _json('{"db_host": "h", "db_password": "RAW", "nonsense": "RAW"}'),
    "JSON: another type": _json('{"db_host": "h", "db_password": ["RAW"]}'),
    "JSON: a path as another type": _json('{"db_host": "h", "db_password_file": ["RAW"]}'),
    "a URL in place of the JSON file": both(RISK_CONFIG="redis://user:{esc}@127.0.0.1:1/0"),
    "a URL as it is in place of the JSON file": both(RISK_CONFIG="postgresql://user:{raw}@127.0.0.1:1/0"),
    "a misspelt variable": both(REDIS_URI="redis://user:{raw}@127.0.0.1:1/0", DB_PASSWORT="{raw}"),
    "the dashboard's": both(RQ_DASHBOARD_PASSWORD="{raw}"),
    **{
        f"a URL in {meta['env']}": both(**{meta["env"]: "redis://user:{esc}@127.0.0.1:1/0?password={raw}"})
        for meta in Settings.declared().values()
        if not meta["secret"]
    },
}
"""Environments that no command can work with, or with which it asks for no server."""

UNREACHED: dict[str, Setup] = {
    "nothing answers": both("redis://user:{esc}@127.0.0.1:1/0", "postgresql://user:{esc}@127.0.0.1:1/risk"),
    "options, nothing answers": both(
        "redis://127.0.0.1:1/0?password={esc}", "postgresql://user@127.0.0.1:1/risk?password={esc}"
    ),
    "Sentinels, nothing answers": both(
        "redis+sentinel://user:{esc}@127.0.0.1:1,127.0.0.1:1/m?sentinel_password={esc}",
        "postgresql://user:{esc}@[::1]:1,127.0.0.1:1/risk?sslmode=disable",
    ),
    "a cluster, nothing answers": both(
        "redis+cluster://user:{esc}@127.0.0.1:1", RQ_REDIS_URL="redis://user:{esc}@127.0.0.1:1"
    ),
    "sockets that are not there": both(
        "unix://user:{esc}@/no/such.sock", "postgresql://user:{esc}@/risk?host=/no/such"
    ),
    "TLS, nothing answers": both(
        "rediss://user:{esc}@127.0.0.1:1/0?ssl_password={esc}&ssl_certfile=/no/cert&ssl_keyfile=/no/key",
        "postgresql://user:{esc}@127.0.0.1:1/risk?sslmode=require&sslpassword={esc}",
    ),
    "parts, nothing answers": both(
        "redis://127.0.0.1:1", DB_HOST="127.0.0.1", DB_PORT="1", DB_USER="user", DB_PASSWORD="{raw}"
    ),
    "files, nothing answers": _file("DB_PASSWORD", "{raw}"),
    "the dashboard's, twice": both(
        "redis://127.0.0.1:1", RQ_DASHBOARD_PASSWORD="{raw}", RQ_DASHBOARD_PASSWORD_FILE="{raw}"
    ),
}
"""Environments of which no server answers."""

REFUSED: dict[str, Setup] = {
    "another password": both("redis://other:{esc}@{redis}/0", "postgresql://other:{esc}@{postgres}/postgres"),
    "parts, another password": both(
        "redis://{redis}/0?username=other&password={esc}",
        DB_HOST="127.0.0.1",
        DB_USER="other",
        DB_PASSWORD="{raw}",
    ),
    "Sentinels that are none": both(
        "redis+sentinel://other:{esc}@{redis}/m?sentinel_password={esc}",
        "postgresql://other:{esc}@{postgres}/postgres?target_session_attrs=standby",
    ),
    "a cluster that is none": both(
        "redis+cluster://other:{esc}@{redis}", RQ_REDIS_URL="redis://other:{esc}@{redis}"
    ),
}
"""Environments that name servers which answer, and do not let the user in."""

SLOW: dict[str, Setup] = {
    "TLS, where there is none": both(
        "rediss://other:{esc}@{redis}/0", "postgresql://other:{esc}@{postgres}/postgres?sslmode=require"
    ),
    "each other's server": both(
        "redis://other:{esc}@{postgres}/0", "postgresql://other:{esc}@{redis}/postgres"
    ),
}
"""Environments in which a server is waited for that does not speak as it should."""

COMMON = {"RISK_SAVE_TIMEOUT_S": "0.01", "RISK_QUERY_TIMEOUT_S": "5", "RISK_LOG_LEVEL": "debug"}
_ARGUMENTS = {"name": "add_x", "file": "-", "time": "1h"}
_OPTIONS = {"html": "report.html", "reason": "a reason"}
STAY = ("tail", "worker")
"""Commands that wait for a server that does not answer."""
ELSEWHERE = ("up", "demo")
"""They read no setting that has a secret: see tests/system/test_secrets.py."""


def commands() -> dict[str, list[str]]:
    """Every command -> its words, with what it asks for."""
    return {" ".join(words[0]): [*words[0], *words[1]] for words in _commands(cli, [], click.Context(cli))}


def _commands(
    command: click.Command, path: list[str], context: click.Context
) -> Iterator[tuple[list[str], list[str]]]:
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            yield path, []
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and (path or name not in ELSEWHERE):
                yield from _commands(below, [*path, name], context)
        return
    words = []
    for each in command.params:
        assert each.name is not None
        if isinstance(each, click.Argument):
            if each.required or each.name in _ARGUMENTS:
                words.append(_ARGUMENTS.get(each.name, "1"))
        elif each.required:
            words += [each.opts[0], _OPTIONS[each.name]]
        elif each.name in ("yes", "burst"):
            words.append(each.opts[0])
    yield path, words


def run(words: list[str], environ: Mapping[str, str]) -> str:
    """Run a command in this process. Returns all that it shows, the causes of its error included."""
    done = CliRunner().invoke(cli, words, env={**COMMON, **environ})
    return f"{done.output}\n{all_of(done.exception)}"


def can_be_used(environ: Mapping[str, str]) -> bool:
    """Whether it is no error: a password that is not escaped may happen to be a part of a URL."""
    try:
        Settings.load({**COMMON, **environ})
    except RiskError:
        return False
    return True


def use_in_python(environ: Mapping[str, str]) -> str:
    """What the classes show that a program imports."""
    shown = []
    try:
        settings = Settings.load({**COMMON, **environ})
        shown += [repr(settings), str(settings), str(settings.shown())]
        producer = RiskProducer.from_settings(settings)
        try:
            shown += [repr(producer), repr(producer.health())]
            try:
                producer.load("trader")
            except RiskError as error:
                shown.append(all_of(error))
        finally:
            producer.close(0)
    except RiskError as error:
        shown.append(all_of(error))
    try:
        reader = RiskReader.from_settings(Settings.load({**COMMON, **environ}))
        shown += [repr(reader), str(reader.knows("trader"))]
    except RiskError as error:
        shown.append(all_of(error))
    return "\n".join(shown)


def all_of(error: BaseException | None) -> str:
    """The error and its causes, as a traceback shows them, without the lines of code; and their reprs."""
    shown = []
    while error is not None:
        shown += [*traceback.format_exception_only(error), repr(error)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(shown)


def hits(text: str) -> list[str]:
    """What of a text shows a part of a password."""
    at = text.lower().find(MARK)
    return [text[max(0, at - 200) : at + 60]] if at >= 0 else []


def hits_in_files(folder: Path) -> list[str]:
    return [
        f"{path}: {found}"
        for path in folder.rglob("*")
        if path.is_file()
        for found in hits(f"{path} {path.read_bytes().decode(errors='replace')}")
    ]


def hits_in_redis(client: redis.Redis) -> list[str]:
    """Of all that a Redis holds: in the names of keys, and in each value, as it is written out."""
    readers: dict[Any, Callable[[Any], object]] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }
    keys = list(client.scan_iter())
    return [found for key in keys for found in hits(f"{key!r} {readers[client.type(key)](key)!r}")]


class Records(logging.Handler):
    """All that is logged meanwhile, by any library, at any level, with the causes of errors."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.lines.append(f"{record.name}: {record.getMessage()} {all_of(error)}")

    def taken(self) -> str:
        """What was logged since the last call."""
        taken, self.lines = "\n".join(self.lines), []
        return taken

    def __enter__(self) -> Records:
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.DEBUG)
        root.addHandler(self)
        return self

    def __exit__(self, *_error: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)
