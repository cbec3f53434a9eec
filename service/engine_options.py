"""How an engine works."""

from __future__ import annotations

from dataclasses import dataclass

from service.admission import Overload
from service.scheduler import Mode


@dataclass(frozen=True)
class EngineOptions:
    """Chosen when the service starts.

    lanes : threads that run stages
    capacity : rows admitted and not yet answered, at most
    max_wait : milliseconds that a new row may have to wait at worst
    """

    lanes: int = 1
    capacity: int = 4096
    max_wait: float = 30_000.0
    mode: Mode = "rebatch"
    overload: Overload = "refuse"
