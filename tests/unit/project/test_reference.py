"""docs/reference is what the code says, and the schema of the wire is true."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry

from docs.generate import FOLDER, READERS, pages
from risk_producer import AsyncRiskProducer, InvalidSnapshot, RiskProducer, Settings
from risk_producer.contract.wire import decode

ROOT = Path(__file__).parents[3]
PAGES = pages()
SCHEMA: dict[str, Any] = json.loads((FOLDER / "wire.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
GOLDEN = (ROOT / "tests" / "golden" / "v1.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name], "run: make reference"


def test_there_is_no_other_page() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("line", GOLDEN)
def test_golden_entries_are_valid(line: bytes) -> None:
    VALIDATOR.validate(json.loads(line))


ODD: tuple[Any, ...] = (
    *(None, True, False, [], {}, [1], {"a": 1}),
    *(0, 1, -1, 1.5, -0.0, 2**31, 2**53, 2**53 + 1, 2**64, 1e300),
    *("", "x", "1", "x" * 255, "x" * 256, "ä" * 1024, "x" * 1025, "a\0b", "a\n"),
    *(
        "2026-01-02T03:04:05Z",
        "2026-01-02 03:04:05.678901z",
        "2026-01-02T03:04:05+0530",
        "2026-01-02T03:04:05+15:00",
    ),
    *("2026-01-02T03:04:05", "2026-01-02", "2026-01-02T24:00:00Z", "1999-01-01T00:00:00Z", "now Z"),
)
BEYOND = {"merged", "recorded_at", "last_reset_time", "paused_until"}
"""Fields with a rule that a schema cannot say; docs/reference/wire.md lists these rules."""


@pytest.mark.parametrize("field", SCHEMA["properties"])
def test_worker_and_schema_agree(field: str) -> None:
    """About each field with a value that it does not have, and without it."""
    whole = {**json.loads(GOLDEN[1]), "merged": 0}
    for entry in ({**whole, field: value} for value in ODD):
        assert_agreement(entry, field)
    assert_agreement({name: value for name, value in whole.items() if name != field}, field)


def assert_agreement(entry: dict[str, Any], field: str) -> None:
    valid = VALIDATOR.is_valid(entry)
    try:
        decode(json.dumps(entry).encode())
    except InvalidSnapshot:
        assert not valid or field in BEYOND, entry
    else:
        assert valid, entry


def test_a_later_field_is_valid() -> None:
    VALIDATOR.validate({**json.loads(GOLDEN[0]), "later": "addition"})


@pytest.mark.parametrize(
    ("plain", "broken"),
    [
        (b"-12.5", b"1e999"),
        (b'"reason":""', b'"reason":"\\ud800"'),
        (b'"seq":1', b'"seq":1,"merged":1'),
        (b'"seq":1', b'"seq":1.0'),
    ],
)
def test_the_rules_that_the_schema_cannot_say(plain: bytes, broken: bytes) -> None:
    entry = GOLDEN[0].replace(plain, broken)
    assert VALIDATOR.is_valid(json.loads(entry))
    with pytest.raises(InvalidSnapshot):
        decode(entry)


class Recorder:
    """Settings that note which of them are read."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        declared = Settings.declared()
        if name in declared:
            self.read.add(declared[name]["env"])
            return getattr(self.settings, name)
        member: Any = inspect.getattr_static(Settings, name)
        return member.__get__(self)


@pytest.mark.parametrize("producer", [RiskProducer, AsyncRiskProducer])
def test_what_a_trader_reads_is_what_the_page_says(producer: Any) -> None:
    recorders = [
        Recorder(Settings(redis_url="redis://127.0.0.1:1/0", db_host="127.0.0.1", postgres_sslmode="prefer")),
        Recorder(Settings(redis_url="redis://127.0.0.1:1/0", postgres_url="postgresql://u@127.0.0.1/d")),
    ]
    for recorder in recorders:
        made = producer.from_settings(recorder, registry=CollectorRegistry())
        assert made.health().buffered == 0
    read = set().union(*(recorder.read for recorder in recorders))
    assert read == {name for name, readers in READERS.items() if "traders" in readers}
