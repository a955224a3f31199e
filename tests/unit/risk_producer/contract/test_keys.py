"""The names of keys: with a namespace they begin with it, and keep their hash tag."""

from __future__ import annotations

import re

import pytest
from redis.crc import key_slot

from risk_producer.contract.keys import NAMESPACE, NAMESPACES, NO_NAMESPACE, Keys, Keyspace, namespace_of


def names_of(keys: Keys | Keyspace) -> list[str]:
    """Every key that there is a property for."""
    names = [name for name, each in vars(type(keys)).items() if isinstance(each, property)]
    return [key for name in names if isinstance(key := getattr(keys, name), str)]


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


@pytest.mark.parametrize("text", ["a", "a,b", " a , b ".strip(), "desk.1,desk-2,desk_3"])
def test_what_may_be_several(text: str) -> None:
    assert re.search(NAMESPACES, text)


@pytest.mark.parametrize("text", ["", ",", "a,", ",a", "a,,b", "a;b", "a b", "a+b", "a,b:c", "a\n,b\n"])
def test_what_may_not_be(text: str) -> None:
    assert not re.search(NAMESPACES, text)


class TestSeveralNamespaces:
    DESKS = Keyspace.of(["desk2", "desk1", "desk2"])

    def test_the_order_in_which_they_are_named_does_not_matter(self) -> None:
        assert Keyspace.of(["desk1", "desk2"]) == self.DESKS
        assert self.DESKS.namespaces == ("desk1", "desk2")
        assert self.DESKS.each == (Keyspace("desk1"), Keyspace("desk2"))
        assert Keyspace.of(["desk1"]) == Keyspace("desk1")
        assert Keyspace.of([""]) == NO_NAMESPACE

    def test_each_stream_has_a_number_of_its_own(self) -> None:
        numbers = self.DESKS.numbers(2)
        assert [self.DESKS.keys(each) for each in numbers] == [
            Keys(partition, name) for name in ("desk1", "desk2") for partition in (0, 1)
        ]
        assert [self.DESKS.number_of(self.DESKS.keys(each)) for each in numbers] == numbers
        assert [self.DESKS.name(each) for each in numbers] == ["desk1/0", "desk1/1", "desk2/0", "desk2/1"]
        assert self.DESKS.number_of(Keys(255, "desk1")) + 1 == self.DESKS.number_of(Keys(0, "desk2"))

    @pytest.mark.parametrize("space", [NO_NAMESPACE, Keyspace("desk1")])
    def test_with_one_alone_it_is_the_partition(self, space: Keyspace) -> None:
        assert list(space.numbers(3)) == [0, 1, 2]
        assert [space.keys(each).partition for each in (0, 2, 255)] == [0, 2, 255]
        assert [space.number_of(space.keys(each)) for each in (0, 2, 255)] == [0, 2, 255]
        assert space.name(2) == "2"

    def test_the_keys_of_rq_are_those_of_no_desk(self) -> None:
        assert self.DESKS.rq_prefix == "{desk1:desk2}:rq"
        of_desks = [name for each in self.DESKS.each for name in names_of(each)]
        assert not {*names_of(self.DESKS)} & {*of_desks}
        assert all(not re.search(NAMESPACE, name.partition(":")[0]) for name in names_of(self.DESKS)[1:])


@pytest.mark.parametrize("namespace", ["", "desk1", "risk", "a.b", "0", "rq"])
def test_a_stream_tells_its_namespace(namespace: str) -> None:
    assert namespace_of(Keys(3, namespace).snapshots) == namespace


@pytest.mark.parametrize("stream", ["", "x", "{0}", "risk:{0}", ":", "a:b"])
def test_what_is_no_stream_has_none(stream: str) -> None:
    assert namespace_of(stream) == ""
