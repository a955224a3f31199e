"""What is agreed on about the number of partitions."""

from __future__ import annotations

import pytest

from risk_producer.contract.partitioning import Partitioning


@pytest.mark.parametrize(
    "raw",
    [
        *(None, b"", "", b"4", b"0:4", b"1:0", b"1:257", b"1:4,4", b"1:4,", b"1:,4", b":4", b"-1:4", b"1:-4"),
        *(b"1: 4", b"1:4\n", b"1e3:4", b"1:4.0", b"\xff\xfe", "1:٤", b"1" * 10 + b":4", b"1:" + b"9," * 300),
        b"1:" + b",".join(b"%d" % number for number in range(1, 258)),
    ],
)
def test_anything_else_is_none(raw: bytes | str | None) -> None:
    assert Partitioning.read(raw) is None


def test_the_most_that_there_can_be() -> None:
    all_of_them = Partitioning(7, 256, tuple(range(1, 256)))
    assert Partitioning.read(all_of_them.text) == all_of_them
