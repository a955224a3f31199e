"""What is listed, what is counted and what is dropped is the same."""

from __future__ import annotations

import re

from risk_producer.contract.statements import statements


def test_all_statements_have_the_same_conditions() -> None:
    found = {
        name: re.sub(r"\s+ORDER BY .*", "", text.partition("WHERE")[2], flags=re.DOTALL)
        for name, text in statements("risk_worker.dead_letters", "select.sql").items()
    }
    assert found.keys() == {"rows", "count", "drop"}
    assert len(set(found.values())) == 1
    assert all(found.values())
