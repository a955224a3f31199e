"""RQ's own prefix has to be the namespace's; it is set where RQ is not imported yet."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from risk_producer.contract.keys import NO_NAMESPACE, Keyspace
from risk_producer.errors import ConfigurationError
from risk_worker.runtime import rq_prefix

AGREE = """
import json, os, sys
from risk_producer.contract.keys import Keyspace
from risk_worker.runtime import rq_prefix

for given in json.loads(sys.argv[1]):
    if os.fork():
        os.wait()
        continue
    if given is not None:
        os.environ[rq_prefix.VARIABLE] = given
    try:
        rq_prefix.agree(Keyspace("desk1"))
    except Exception as error:
        print(json.dumps(str(error)), flush=True)
    else:
        from rq.defaults import RQ_KEY_PREFIX
        print(json.dumps(RQ_KEY_PREFIX), flush=True)
    os._exit(0)
"""
"""For each value a process of its own, in which RQ is not imported yet."""


def test_the_prefix_that_rq_has_is_compared() -> None:
    import rq.defaults

    assert rq.defaults.RQ_KEY_PREFIX == "rq"
    rq_prefix.agree(NO_NAMESPACE)
    with pytest.raises(ConfigurationError, match=r"RISK_NAMESPACE is desk1, .* set RQ_KEY_PREFIX=desk1:rq"):
        rq_prefix.agree(Keyspace("desk1"))
    both = r"RISK_NAMESPACES is desk1,desk2, .* set RQ_KEY_PREFIX={desk1:desk2}:rq"
    with pytest.raises(ConfigurationError, match=both):
        rq_prefix.agree(Keyspace.of(["desk2", "desk1"]))


def test_it_is_set_before_rq_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(rq_prefix.VARIABLE, raising=False)
    agreed, refused = [None, "", "desk1:rq"], ["rq", "desk2:rq", "not % allowed"]
    command = [sys.executable, "-c", AGREE, json.dumps([*agreed, *refused])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[:3] == ["desk1:rq"] * 3
    for given, said in zip(refused, found[3:], strict=True):
        assert said.startswith(f"RQ_KEY_PREFIX is {given}, but RISK_NAMESPACE is desk1")
