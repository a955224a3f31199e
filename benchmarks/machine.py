"""What the figures were taken on: the machine, the versions, the settings."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg

from benchmarks.servers import POSTGRES, VALKEY, Servers
from risk_producer.settings import Settings

_LIBRARIES = ("redis", "hiredis", "psycopg", "msgspec", "rq", "faststream", "celery", "taskiq")
_POSTGRES_SHOWN = (
    *("shared_buffers", "max_wal_size", "fsync", "synchronous_commit", "full_page_writes"),
    *("wal_compression", "io_method"),
)
_VALKEY_SHOWN = ("appendonly", "appendfsync", "stream-node-max-bytes", "stream-node-max-entries")
_SETTINGS_SHOWN = ("RISK_PARTITIONS", "RISK_BATCH_SIZE", "RISK_FLUSH_INTERVAL_MS", "RISK_BUFFER_SIZE")


def described(servers: Servers) -> dict[str, str]:
    """name -> a line for people."""
    with psycopg.connect(servers.postgres.url) as db:

        def show(name: str) -> str:
            row = db.execute(f"SHOW {name}".encode()).fetchone()
            assert row is not None
            return str(row[0])

        postgres = show("server_version")
        postgres_settings = {name: show(name) for name in (*_POSTGRES_SHOWN, *POSTGRES)}
    about = servers.redis.info("server")
    valkey_settings = {
        name: servers.redis.config_get(name).get(name, "?") for name in (*_VALKEY_SHOWN, *VALKEY)
    }
    defaults = Settings().shown()
    return {
        "Machine": f"{os.cpu_count()} cores, {_processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "System": _system(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Postgres": postgres,
        "Valkey": str(about.get("valkey_version", about["redis_version"])),
        "Libraries": _versions(),
        "Postgres' settings": _listed(postgres_settings),
        "Valkey's settings": _listed(valkey_settings),
        "riskstream's settings": _listed({name: defaults[name] for name in _SETTINGS_SHOWN}),
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return f"{platform.system()}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    except OSError:
        return platform.system()


def _versions() -> str:
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _listed(settings: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
