"""Every setting of traders and workers, declared once. Which of them make no sense together: see pairs.py."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import quote

import msgspec

from risk_producer.contract.keys import NAMESPACE, NAMESPACES, PARTITIONS_MAX, Keyspace
from risk_producer.errors import ConfigurationError
from risk_producer.settings import declare
from risk_producer.settings.address import check_for_rq, redis_address
from risk_producer.settings.declare import env
from risk_producer.settings.pairs import Role, contradictions
from risk_producer.settings.urls import postgres_parameters, with_option

log = logging.getLogger("riskstream.settings")

_logged: Final[set[str]] = set()
"""Contradictions that this process has logged."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, of traders and workers alike: one environment or file may serve both."""

    redis_url: Annotated[
        str | None,
        env(
            "REDIS_URL",
            "Redis with the stream, as a URL: redis://, rediss://, unix://, redis+sentinel:// or "
            "redis+cluster://",
            secret=True,
        ),
    ] = None
    persistence_backend: Annotated[
        Literal["postgres", "memory"],
        env("PERSISTENCE_BACKEND", "postgres; or memory: keep state in the trader's memory, send nothing"),
    ] = "postgres"
    enable_persistence: Annotated[
        bool,
        env(
            "ENABLE_PERSISTENCE",
            "false: keep state in the trader's memory, send nothing",
            group="feature_flags",
        ),
    ] = True
    postgres_url: Annotated[
        str | None,
        env("POSTGRES_URL", "Postgres as a libpq URL; takes precedence over DB_*", secret=True),
    ] = None
    db_host: Annotated[
        str | None,
        env("DB_HOST", "Postgres host, where POSTGRES_URL is not set; or a socket's folder, or a list h1,h2"),
    ] = None
    db_port: Annotated[
        str,
        env(
            "DB_PORT",
            "Postgres port; or a list, one for each host",
            pattern=r"^\d{1,5}(,\d{1,5})*$",
            expects="a whole number",
        ),
    ] = "5432"
    db_user: Annotated[str | None, env("DB_USER", "Postgres user")] = None
    db_password: Annotated[str | None, env("DB_PASSWORD", "Postgres password", secret=True)] = None
    db_name: Annotated[str | None, env("DB_NAME", "Postgres database")] = None
    postgres_sslmode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None,
        env("POSTGRES_SSLMODE", "libpq's sslmode, where the URL does not say it"),
    ] = None
    namespace: Annotated[
        str,
        env(
            "RISK_NAMESPACE",
            "What all keys in Redis begin with, RQ's too, so that several deployments may share a Redis: "
            "a-z, A-Z, 0-9, - _ and . The same for traders and workers",
            pattern=NAMESPACE,
            expects="1 to 64 of a-z, A-Z, 0-9, - _ and .",
        ),
    ] = ""
    namespaces: Annotated[
        str,
        env(
            "RISK_NAMESPACES",
            "Namespaces that workers, exporter and commands serve together, like desk1,desk2; each trader "
            "belongs to the one that reports it first, and no other can report it",
            pattern=NAMESPACES,
            expects="names like desk1,desk2, each of 1 to 64 of a-z, A-Z, 0-9, - _ and .",
        ),
    ] = ""
    partitions: Annotated[
        int,
        env(
            "RISK_PARTITIONS",
            "Streams that traders are spread over, as a new deployment has it; then `riskstream partitions` "
            "changes it",
            ge=1,
            le=PARTITIONS_MAX,
        ),
    ] = 1
    stream_maxlen: Annotated[
        int,
        env(
            "RISK_STREAM_MAXLEN",
            "Entries that all partitions' streams may hold, each an equal part; the backpressure",
            ge=1,
            le=100_000_000,
        ),
    ] = 1_000_000
    buffer_size: Annotated[
        int, env("RISK_BUFFER_SIZE", "Snapshots a producer holds in memory", ge=1, le=1_000_000)
    ] = 1_024
    save_timeout_s: Annotated[
        float,
        env("RISK_SAVE_TIMEOUT_S", "Seconds that save() and push() wait for room", ge=0, le=3600),
    ] = 5.0
    on_full: Annotated[
        Literal["block", "refuse", "conflate"],
        env(
            "RISK_ON_FULL",
            "When the buffer is full, save() waits (block), answers False at once (refuse), or merges older "
            "snapshots of a trader into its newest (conflate)",
        ),
    ] = "block"
    spool_dir: Annotated[
        str | None,
        env(
            "RISK_SPOOL_DIR",
            "Folder, one a producer, where accepted snapshots survive a crash; none: in memory only",
        ),
    ] = None
    spool_fsync: Annotated[
        Literal["never", "interval", "always"],
        env(
            "RISK_SPOOL_FSYNC",
            "never: the spool survives a crash of the process; interval: of the machine, but for the last "
            "seconds; always: save() waits for the disk",
        ),
    ] = "never"
    spool_max_bytes: Annotated[
        int, env("RISK_SPOOL_MAX_BYTES", "Bytes the spool may take", ge=65_536, le=1 << 40)
    ] = 67_108_864
    replicas: Annotated[
        int,
        env(
            "RISK_REPLICAS",
            "Replicas of Redis that have to confirm a snapshot before it is accepted; 0: Redis alone",
            ge=0,
            le=100,
        ),
    ] = 0
    rq_redis_url: Annotated[
        str | None,
        env("RQ_REDIS_URL", "Redis for RQ's own keys, no Redis Cluster; default: REDIS_URL", secret=True),
    ] = None
    batch_size: Annotated[
        int, env("RISK_BATCH_SIZE", "Snapshots a transaction stores at the most", ge=1, le=50_000)
    ] = 10_000
    migrate: Annotated[
        Literal["auto", "never"],
        env(
            "RISK_MIGRATE",
            "What a starting worker does where a migration is pending: it applies it (auto), or ends (never)",
        ),
    ] = "auto"
    dbmate: Annotated[
        str | None,
        env(
            "RISK_DBMATE",
            "Path of a dbmate of your own, which migrations are applied with; default: the one that is "
            "installed with riskstream, whose digest is checked",
        ),
    ] = None
    seal_every: Annotated[
        Literal["off", "10m", "1h", "6h", "1d"],
        env("RISK_SEAL_EVERY", "How much time one seal of history covers; off: the worker does not seal"),
    ] = "1h"
    compress_after: Annotated[
        str,
        env(
            "RISK_COMPRESS_AFTER",
            "Age in days at which TimescaleDB compresses a part of history, as `riskstream timescale "
            "policies` sets it; off: never",
            pattern=r"^([1-9]\d{0,4}d|off)$",
            expects="a number of days like 7d, or off",
        ),
    ] = "7d"
    retain_for: Annotated[
        str,
        env(
            "RISK_RETAIN_FOR",
            "Age in days, at least 7, from which history is removed once it is sealed; forever: never",
            pattern=r"^(([7-9]|[1-9]\d{1,4})d|forever)$",
            expects="a number of days from 7d, like 90d, or forever",
        ),
    ] = "forever"
    query_timeout_s: Annotated[
        float,
        env("RISK_QUERY_TIMEOUT_S", "Seconds that Postgres may work on a question", gt=0, le=86_400),
    ] = 60.0
    verify_every: Annotated[
        str,
        env(
            "RISK_VERIFY_EVERY",
            "How often the exporter reconciles as `riskstream verify` does, where it has a database's URL; "
            "off: never",
            pattern=r"^([1-9]\d{0,3}[smhd]|off)$",
            expects="a length of time like 15m or 1h, or off",
        ),
    ] = "15m"
    metrics_traders: Annotated[
        Literal["off", "counts", "risk"],
        env(
            "RISK_METRICS_TRADERS",
            "Series of each trader in /metrics: off; counts; or risk, which adds equity, drawdown, daily_pnl "
            "and whether it is paused",
        ),
    ] = "counts"
    metrics_traders_max: Annotated[
        int,
        env(
            "RISK_METRICS_TRADERS_MAX",
            "Traders that have series of their own in /metrics at the most",
            ge=0,
            le=1_000_000,
        ),
    ] = 10_000
    forget_trader_after: Annotated[
        str,
        env(
            "RISK_FORGET_TRADER_AFTER",
            "Who sent nothing for so long has no series of its own in /metrics any more; never: it stays",
            pattern=r"^([1-9]\d{0,3}[smhd]|never)$",
            expects="a length of time like 12h or 7d, or never",
        ),
    ] = "7d"
    health_listen: Annotated[
        str,
        env(
            "RISK_HEALTH_LISTEN",
            "Where a worker serves /healthz and /readyz, like 127.0.0.1:9401 or [::]:9401; off: nowhere",
            pattern=r"^(([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}|off)$",
            expects="a host and a port like 127.0.0.1:9401, or off",
        ),
    ] = "off"
    tz: Annotated[
        str,
        env(
            "RISK_TZ",
            "Time zone of questions, where they name none: of the times that are shown and asked for, and of "
            "days",
            pattern=r"^[A-Za-z0-9_+/-]{1,64}$",
            expects="a time zone like UTC, Europe/Berlin or America/New_York",
        ),
    ] = "UTC"
    day_ends: Annotated[
        str,
        env(
            "RISK_DAY_ENDS",
            "When the days of questions end, by the clocks of RISK_TZ; a day has the date of its end",
            pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$",
            expects="a time of the clock like 17:00; 24:00 is midnight",
        ),
    ] = "24:00"
    flush_interval_ms: Annotated[
        float,
        env(
            "RISK_FLUSH_INTERVAL_MS",
            "Milliseconds from one read of a worker to the next at the least, so that a batch grows",
            ge=0,
            le=60_000,
        ),
    ] = 5.0
    max_retries: Annotated[
        int,
        env(
            "RISK_MAX_RETRIES", "Retries of a batch before it is left in the stream for a while", ge=0, le=100
        ),
    ] = 5
    backoff_base_ms: Annotated[
        float, env("RISK_BACKOFF_BASE_MS", "First wait before a retry; it doubles", gt=0, le=60_000)
    ] = 150.0
    backoff_cap_ms: Annotated[
        float, env("RISK_BACKOFF_CAP_MS", "Longest wait before a retry", gt=0, le=600_000)
    ] = 3_000.0
    drain_timeout_s: Annotated[
        float,
        env("RISK_DRAIN_TIMEOUT_S", "Seconds a stopping worker has for the batch in hand", gt=0, le=3600),
    ] = 10.0
    log_level: Annotated[
        str,
        env(
            "RISK_LOG_LEVEL",
            "From which level on worker, exporter and dashboard log: debug, info, warning, error or critical",
            pattern=r"(?i)^(debug|info|warning|error|critical)$",
            expects="debug, info, warning, error or critical",
        ),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        env("RISK_LOG_FORMAT", "How they log: lines of text, or a JSON object a line"),
    ] = "text"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, role: Role | None = None) -> Self:
        """Read the settings: the environment first, then the JSON file named by RISK_CONFIG, then defaults.

        role: of this process, whose settings have to make sense together; None: neither trader nor worker.
        What contradicts in settings that only another kind of process uses is logged, once.
        Raises ConfigurationError that names the variable and what it expects, or the two that contradict.
        """
        values, origins = declare.read(cls, os.environ if environ is None else environ)
        settings = msgspec.convert(values, cls, strict=False)
        settings._check_urls(origins)
        known = cls.declared()
        for pair, message in contradictions(
            msgspec.structs.asdict(settings),
            {field for field, value in values.items() if value is not None},
            name=lambda field: origins.get(field, known[field]["env"]),
            secret={field for field, meta in known.items() if meta["secret"]},
        ):
            if pair.role in (None, role):
                raise ConfigurationError(message)
            if message not in _logged:
                _logged.add(message)
                log.warning("%s. This process does not use them; a %s would not start", message, pair.role)
        return settings

    @classmethod
    def origins(cls, environ: Mapping[str, str]) -> dict[str, str]:
        """variable -> where its value is from, of the settings that are set. Raises ConfigurationError."""
        _, origins = declare.read(cls, environ)
        known = cls.declared()
        return {
            (variable := known[field]["env"]): declare.ENVIRONMENT if origin == variable else origin
            for field, origin in origins.items()
        }

    @classmethod
    def variables(cls) -> frozenset[str]:
        """Every variable that is read: those of the settings, and NAME_FILE of each that is secret."""
        return declare.variables(cls)

    @classmethod
    def declared(cls) -> dict[str, dict[str, Any]]:
        """field -> {"env": variable, "secret": bool, "description": text}, in order of declaration."""
        return declare.declared(cls)

    def shown(self) -> dict[str, str]:
        """variable -> the value in force as text, secrets masked."""
        return declare.shown(self)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{variable}={value!r}' for variable, value in self.shown().items())})"

    @property
    def database_url(self) -> str | None:
        """POSTGRES_URL, or one made of DB_*, with POSTGRES_SSLMODE; None where neither is set."""
        if self.postgres_url is not None:
            url = self.postgres_url
        elif self.db_host is not None:
            url = self._url_of_parts()
        else:
            return None
        if self.postgres_sslmode is None:
            return url
        return with_option(url, "sslmode", self.postgres_sslmode)

    def _url_of_parts(self) -> str:
        """DB_* as a URL. What could be read as something else in a URL goes into its query."""
        user, password, name = (
            quote(text, safe="")
            for text in (
                self.db_user or "postgres",
                self.db_password or "",
                self.db_name or self.db_user or "postgres",
            )
        )
        host, port = self.db_host or "", self.db_port
        login = f"{user}:{password}" if password else user
        if re.fullmatch(r"[A-Za-z0-9._-]+", host) and port.isdigit():
            return f"postgresql://{login}@{host}:{port}/{name}"
        return f"postgresql://{login}@/{name}?host={quote(host, safe=',')}&port={quote(port, safe=',')}"

    @property
    def persistent(self) -> bool:
        """Whether snapshots leave the trader's memory at all."""
        return self.enable_persistence and self.persistence_backend == "postgres"

    @property
    def compress_after_days(self) -> int | None:
        """RISK_COMPRESS_AFTER; None: never."""
        return None if self.compress_after == "off" else int(self.compress_after.removesuffix("d"))

    @property
    def retain_for_days(self) -> int | None:
        """RISK_RETAIN_FOR; None: for ever."""
        return None if self.retain_for == "forever" else int(self.retain_for.removesuffix("d"))

    @property
    def verify_every_s(self) -> float | None:
        """RISK_VERIFY_EVERY in seconds; None: never."""
        return None if self.verify_every == "off" else _seconds(self.verify_every)

    @property
    def forget_trader_after_s(self) -> float | None:
        """RISK_FORGET_TRADER_AFTER in seconds; None: never."""
        return None if self.forget_trader_after == "never" else _seconds(self.forget_trader_after)

    @property
    def keyspace(self) -> Keyspace:
        """The names of all keys in Redis."""
        if self.namespaces:
            return Keyspace.of(each.strip() for each in self.namespaces.split(","))
        return Keyspace(self.namespace)

    @property
    def assigns_traders(self) -> bool:
        """Whether a trader belongs to the namespace that first reports it: RISK_NAMESPACES says so."""
        return bool(self.namespaces)

    def require_namespace(self) -> str:
        """RISK_NAMESPACE, or "". Raises ConfigurationError where RISK_NAMESPACES is set in its place."""
        if self.namespaces and not self.namespace:
            raise ConfigurationError(
                f"RISK_NAMESPACES is {self.namespaces}, and what reports or looks after one trader needs one "
                "namespace: set RISK_NAMESPACE in its place"
            )
        return self.namespace

    def require_rq_redis_url(self) -> str:
        """RQ_REDIS_URL, or REDIS_URL, or ConfigurationError: RQ does not work on a Redis Cluster."""
        if self.rq_redis_url is not None:
            return self.rq_redis_url
        url = self.require_redis_url()
        check_for_rq(url, "RQ_REDIS_URL is not set, and REDIS_URL")
        return url

    def require_redis_url(self) -> str:
        """REDIS_URL, or ConfigurationError."""
        if self.redis_url is None:
            raise ConfigurationError("REDIS_URL is not set; it expects a URL like redis://localhost:6379/0")
        return self.redis_url

    def require_database_url(self) -> str:
        """The database's URL, or ConfigurationError."""
        url = self.database_url
        if url is None:
            raise ConfigurationError(
                "POSTGRES_URL is not set; it expects a URL like postgresql://user:password@host:5432/name "
                "(or set DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME)"
            )
        return url

    def _check_urls(self, origins: Mapping[str, str]) -> None:
        if self.redis_url is not None:
            redis_address(self.redis_url, origins.get("redis_url", "redis_url"))
        if self.rq_redis_url is not None:
            check_for_rq(self.rq_redis_url, origins.get("rq_redis_url", "rq_redis_url"))
        if self.postgres_url is not None:
            postgres_parameters(self.postgres_url, origins.get("postgres_url", "postgres_url"))
        for field, text in (("db_host", self.db_host), ("db_user", self.db_user), ("db_name", self.db_name)):
            if text is not None and "://" in text:
                raise ConfigurationError(
                    f"{origins.get(field, field)} has a URL, which is for POSTGRES_URL: it expects a name"
                )
        if self.db_host is not None:
            postgres_parameters(self._url_of_parts(), "DB_HOST and DB_PORT")


def _seconds(length: str) -> float:
    """Of a length of time like 90s, 15m, 12h or 7d."""
    return int(length[:-1]) * {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}[length[-1]]


def check_arguments(*, database_url: str | None = None, **arguments: Any) -> None:
    """Check arguments of a constructor by the rules of the settings of these names, alone and in pairs.

    A text is no number here, and a path is a text. Raises ConfigurationError that names the argument.
    """
    if database_url is not None:
        declare.check(Settings, "postgres_url", database_url, "database_url", strict=True)
        postgres_parameters(database_url, "database_url")
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    for field, value in arguments.items():
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if field == "namespace" and value == "":
            continue
        declare.check(Settings, field, value, field, strict=True)
    given = {field for field, value in arguments.items() if value != defaults[field]}
    for _, message in contradictions(arguments, given, name=str):
        raise ConfigurationError(message)


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that are no setting -> the setting that is spelt almost like it."""
    return declare.misspelt(Settings, environ)


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """What is neither a setting nor a login of the dashboard: for programs that need none of them."""
    ours = Settings.variables() | {declare.CONFIG_FILE}
    return {
        name: value
        for name, value in environ.items()
        if name not in ours and not name.startswith("RQ_DASHBOARD_")
    }


def warn_of_misspelt() -> None:
    """Log each variable of the environment that is no setting and is spelt almost like one."""
    for variable, meant in misspelt(os.environ).items():
        log.warning("%s is no setting; do you mean %s?", variable, meant)
