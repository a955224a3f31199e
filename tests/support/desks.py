"""Several desks on one Redis and one database, each with a namespace, served together."""

from __future__ import annotations

import json
from threading import Event
from typing import Any

from click.testing import CliRunner, Result

from risk_producer import RiskProducer
from risk_producer.settings import Settings
from risk_worker.cli import cli
from risk_worker.database.store import PostgresStore
from risk_worker.drain.loop import drain
from risk_worker.recovery.floors import FloorsOfShare
from risk_worker.recovery.partitioning import agree
from risk_worker.stream import partitions
from risk_worker.stream.source import StreamSource, connect
from tests.support.factory import snapshot


class Desks:
    """Their settings, their traders, and a drain in this process."""

    def __init__(self, environ: dict[str, str], *names: str, partitions: int = 2) -> None:
        self.environ = {
            **environ,
            "RISK_NAMESPACES": ",".join(names),
            "RISK_PARTITIONS": str(partitions),
        }
        self.settings = Settings.load(self.environ)
        self.keyspace = self.settings.keyspace

    def of(self, name: str) -> dict[str, str]:
        """The environment of one desk's traders and commands."""
        alone = {key: value for key, value in self.environ.items() if key != "RISK_NAMESPACES"}
        return {**alone, "RISK_NAMESPACE": name}

    def producer(self, name: str, **more: str) -> RiskProducer:
        return RiskProducer.from_settings(Settings.load({**self.of(name), **more}, role="trader"))

    def push(self, name: str, *traders: str, count: int = 1) -> None:
        """Snapshots of these traders by a desk, each with its name as the reason."""
        with self.producer(name) as producer:
            for number in range(count):
                for trader in traders:
                    producer.push(snapshot(trader, float(number), reason=name), timeout=30)

    def compare(self) -> None:
        """As the workers do at their start, and after Redis has lost its data."""
        settings, url = self.settings, self.settings.require_database_url()
        with connect(settings.require_redis_url()) as client:
            agree(client, url, self.keyspace, settings.partitions)
            seen = partitions.look_at_all(client, self.keyspace, settings.partitions)
            with FloorsOfShare(settings, client, seen.numbers) as floors:
                floors.compare()

    def drain(self) -> int:
        """All that waits. Returns how many entries that were."""
        settings = self.settings
        with (
            connect(settings.require_redis_url()) as client,
            PostgresStore(settings.require_database_url(), assigns_traders=True) as store,
        ):
            seen = partitions.look_at_all(client, self.keyspace, settings.partitions)
            source = StreamSource(client, seen.numbers, block_s=0.01, keyspace=self.keyspace)
            return drain(source, store, stop=Event(), over=lambda: source.is_empty())

    def run(self, *command: str, **environ: str) -> Result:
        return CliRunner().invoke(cli, list(command), env={**self.environ, **environ})

    def verify(self, *names: str) -> dict[str, Any]:
        """What `verify --json` says of these desks alone, or of all."""
        more = {"RISK_NAMESPACES": ",".join(names)} if names else {}
        done = self.run("verify", "--json", **more)
        assert done.exit_code in (0, 1), done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found
