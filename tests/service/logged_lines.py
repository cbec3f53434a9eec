"""What the service logs, for tests that have to wait for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class LoggedLines(logging.Handler):
    """Keeps what is logged below `bentoml.offramp`; a line may come after its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    def events(self, name: str, count: int) -> list[logging.LogRecord]:
        """The first `count` of this event, when they are there."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self._of(name)) >= count, timeout=60)
            assert arrived, [record.getMessage() for record in self.records]
            return self._of(name)

    def lines(self, name: str, count: int) -> list[str]:
        """The same as text."""
        return [record.getMessage() for record in self.events(name, count)]

    def _of(self, name: str) -> list[logging.LogRecord]:
        start = f"event={name} "
        return [record for record in self.records if record.getMessage().startswith(start)]


@contextmanager
def logged_lines() -> Iterator[LoggedLines]:
    """All that is logged in here, from INFO on."""
    logger, handler = logging.getLogger("bentoml.offramp"), LoggedLines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
