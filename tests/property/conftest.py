"""How many examples a property makes by itself; docs/reliability.md has more."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "riskstream", max_examples=int(os.environ.get("RISK_TEST_EXAMPLES", "50")), deadline=None
)
settings.load_profile("riskstream")
