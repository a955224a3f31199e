"""RQ's own prefix: RQ reads RQ_KEY_PREFIX when it is imported, and it has to be the one of the namespace.

Otherwise two deployments on one Redis would have one queue, and each would run jobs of the other.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from risk_producer.contract.keys import Keyspace
from risk_producer.errors import ConfigurationError

VARIABLE: Final = "RQ_KEY_PREFIX"


def agree(keyspace: Keyspace) -> None:
    """Have RQ use the namespace's prefix, where it is not imported yet and the variable does not say another.

    Raises ConfigurationError where RQ uses another one.
    """
    wanted = keyspace.rq_prefix
    imported = sys.modules.get("rq.defaults")
    if imported is None and not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = wanted
    found = os.environ[VARIABLE] if imported is None else imported.RQ_KEY_PREFIX
    if found != wanted:
        namespace = "RISK_NAMESPACE is not set"
        if keyspace.namespace:
            several = keyspace.is_several
            namespace = (
                f"{'RISK_NAMESPACES' if several else 'RISK_NAMESPACE'} is {','.join(keyspace.namespaces)}"
            )
        raise ConfigurationError(
            f"{VARIABLE} is {found}, but {namespace}, and then RQ's keys have to begin with "
            f"{wanted}: set {VARIABLE}={wanted}"
        )
