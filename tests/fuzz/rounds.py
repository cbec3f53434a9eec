"""How long a fuzzer goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hypothesis import HealthCheck, settings

SECONDS = 60 * float(os.environ.get("FUZZ_MINUTES", "0"))
"""Of all fuzzers together; 0 for one short round each."""

any_request = settings(
    max_examples=200 if SECONDS else 40,
    deadline=None,  # requests have a time limit of their own
    database=None,
    suppress_health_check=list(HealthCheck),
)

Fuzz = Callable[[], None]
Repeat = Callable[[Fuzz], None]


def repeat_for(seconds: float, fuzz: Fuzz) -> None:
    """Run one round of a fuzzer, and more of them, each with other requests, while time is left."""
    end = time.monotonic() + seconds
    fuzz()
    while time.monotonic() < end:
        fuzz()
