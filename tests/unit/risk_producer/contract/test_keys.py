"""The names of keys: with a namespace they begin with it, and keep their hash tag."""

from __future__ import annotations

import re

import pytest
from redis.crc import key_slot

from risk_producer.contract.keys import NAMESPACE, NO_NAMESPACE, Keys, Keyspace


def names_of(keys: Keys | Keyspace) -> list[str]:
    """Every key that there is a property for."""
    names = [name for name, each in vars(type(keys)).items() if isinstance(each, property)]
    return [getattr(keys, name) for name in names]


def test_without_a_namespace_they_are_as_ever() -> None:
    assert Keys(3).snapshots == "risk:{3}:snapshots"
    assert NO_NAMESPACE.keys(3) == Keys(3)
    assert (NO_NAMESPACE.rq_prefix, NO_NAMESPACE.drain_jobs) == ("rq", "risk:drain-jobs")


def test_with_one_every_key_begins_with_it() -> None:
    space = Keyspace("desk-1")
    plain = [*names_of(Keys(3)), *names_of(NO_NAMESPACE)]
    assert [*names_of(space.keys(3)), *names_of(space)] == [f"desk-1:{name}" for name in plain]


@pytest.mark.parametrize("partition", [0, 3, 255])
def test_the_hash_tag_is_the_partition_alone(partition: int) -> None:
    tagged = key_slot(str(partition).encode())
    for namespace in ("", "desk-1", "risk", "rq", "0"):
        assert {key_slot(name.encode()) for name in names_of(Keys(partition, namespace))} == {tagged}


def test_no_two_deployments_have_a_key_in_common() -> None:
    spaces = [Keyspace(namespace) for namespace in ("", "a", "a.b", "risk", "rq", "0", "risk-0")]
    names = [name for each in spaces for p in range(3) for name in names_of(each.keys(p))]
    names += [name for each in spaces for name in names_of(each)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("namespace", ["a", "desk-1", "A_b.c", "0", "x" * 64])
def test_what_may_be_a_namespace(namespace: str) -> None:
    assert re.search(NAMESPACE, namespace)


@pytest.mark.parametrize(
    "namespace", ["", "a:b", "a:", "{a}", "a b", "a\n", "ä", "a*", "a/b", "x" * 65, "a\0"]
)
def test_what_may_not(namespace: str) -> None:
    assert not re.search(NAMESPACE, namespace)
