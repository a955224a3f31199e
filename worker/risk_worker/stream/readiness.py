"""Whether snapshots that traders send now will be stored: what /readyz of exporter and worker says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import sleep
from typing import Final

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.transport.connect import REDIS_ERRORS, RedisClient
from risk_worker.stream import server
from risk_worker.stream.progress import Watch
from risk_worker.stream.workers import RegisteredWorker, registered_workers, shares_at_work

TAKEOVER_S: Final = 1.0
"""Between two time slices no worker holds a partition for a moment: so long it is looked for."""
_LOOK_S: Final = 0.1


def workers_of(
    rq: RedisClient, partitions: Sequence[int], keyspace: Keyspace = NO_NAMESPACE
) -> tuple[list[RegisteredWorker], dict[int, int]]:
    """All workers on RQ's list, and how many that are alive drain each partition just now.

    partitions: the numbers of all streams. Raises one of REDIS_ERRORS.
    """
    workers = registered_workers(rq, keyspace)
    alive = [each for each in workers if each.is_alive]
    counts = dict.fromkeys(partitions, 0)
    for share, shares in shares_at_work(rq, alive, keyspace).values():
        for number in partitions[share::shares]:
            counts[number] += 1
    return workers, counts


class Readiness:
    """Looks when it is asked. Thread-safe."""

    def __init__(
        self,
        client: RedisClient,
        rq: RedisClient,
        partitions: Callable[[], Sequence[int]],
        keyspace: Keyspace = NO_NAMESPACE,
        watch: Watch | None = None,
        *,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        """partitions: the numbers of all streams; it may raise one of REDIS_ERRORS. watch: another's."""
        self._client = client
        self._rq = rq
        self._partitions = partitions
        self._keyspace = keyspace
        self._watch = watch or Watch(client, partitions, keyspace)
        self._pause = pause

    def problems(self) -> list[str]:
        """A sentence for each reason why what is sent now may not be stored; none: it is. Raises nothing of
        Redis.

        Redis takes writes; a worker holds every partition, and the database takes what it stores; and where
        entries wait, some were stored within a minute.
        """
        try:
            partitions = self._partitions()
            servers = server.look(self._client, [self._keyspace.keys(number) for number in partitions])
            refusals = server.refusals(servers)
            if servers and all(each.away for each in servers):
                return [f"{each}." for each in refusals]
            return [*(f"{each}." for each in refusals), *self._of_workers(partitions), *self._stalled()]
        except REDIS_ERRORS as error:
            return [f"Redis does not answer: {error}"]

    def _stalled(self) -> list[str]:
        return [f"{each}." for each in self._watch.stalled()]

    def _of_workers(self, partitions: Sequence[int]) -> list[str]:
        waited_s = 0.0
        missing = set(partitions)
        while True:
            try:
                workers, counts = workers_of(self._rq, partitions, self._keyspace)
            except REDIS_ERRORS as error:
                return [f"RQ's Redis does not answer: {error}."]
            missing &= {number for number, count in counts.items() if not count}
            alive = any(each.is_alive for each in workers)
            if not missing or not alive or waited_s >= TAKEOVER_S:
                break
            self._pause(_LOOK_S)
            waited_s += _LOOK_S
        hindered = [each for each in workers if each.is_alive and each.cannot_store]
        if hindered:
            return [f"The worker {each.where} cannot store: {each.cannot_store}." for each in hindered]
        if not missing:
            return []
        if not alive:
            return [
                "No worker is alive: start one (riskstream worker), or look at Postgres, which it waits for."
            ]
        names = [self._keyspace.name(number) for number in sorted(missing)]
        return [f"No worker drains {_listed(names)}; the workers' logs say why."]


def _listed(partitions: Sequence[str]) -> str:
    noun = "partition" if len(partitions) == 1 else "the partitions"
    shown = ", ".join(partitions[:10])
    return f"{noun} {shown}" + (f" and {len(partitions) - 10} more" if len(partitions) > 10 else "")
