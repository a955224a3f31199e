"""RQ's own prefix has to be the namespace's; it is set where RQ is not imported yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.errors import ConfigurationError
from risk_worker.runtime import rq_prefix

AGREE = (
    "from risk_producer.contract.keys import Keyspace; from risk_worker.runtime import rq_prefix; "
    "rq_prefix.agree(Keyspace('desk1')); from rq.defaults import RQ_KEY_PREFIX; print(RQ_KEY_PREFIX)"
)


def test_the_prefix_that_rq_has_is_compared() -> None:
    import rq.defaults

    assert rq.defaults.RQ_KEY_PREFIX == "rq"
    rq_prefix.agree(NO_NAMESPACE)
    with pytest.raises(ConfigurationError, match=r"RISK_NAMESPACE is desk1, .* set RQ_KEY_PREFIX=desk1:rq"):
        rq_prefix.agree(Keyspace("desk1"))


@pytest.mark.parametrize(
    ("given", "status"),
    [(None, 0), ("", 0), ("desk1:rq", 0), ("rq", 1), ("desk2:rq", 1), ("not % allowed", 1)],
)
def test_it_is_set_before_rq_is_imported(
    given: str | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(rq_prefix.VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(rq_prefix.VARIABLE, given)
    done = subprocess.run(
        [sys.executable, "-c", AGREE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    if status:
        assert f"RQ_KEY_PREFIX is {given}, but RISK_NAMESPACE is desk1" in done.stderr
    else:
        assert done.stdout == "desk1:rq\n"
