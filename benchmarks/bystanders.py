"""Clients that have no part in a fault: what became of their requests, from when to when."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bystander_load import GAPS, LIMIT_SECONDS, OK
from checked_rows import CheckedRows

HERE = Path(__file__).resolve().parent
START_SECONDS = 60.0


@dataclass(frozen=True)
class Asked:
    """One request.

    sent : seconds on the clock of `time.monotonic`
    outcome : "ok", "wrong", or how it failed: a status of its protocol, "timeout", "closed"
    said : of a failure, what the service told
    """

    door: str
    sent: float
    milliseconds: float
    outcome: str
    said: str


@dataclass
class Phase:
    """What began within a while; `asked` is filled at its end."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def outcomes(self) -> Counter[str]:
        """How many had which."""
        return Counter(one.outcome for one in self.asked)

    @property
    def mishaps(self) -> list[str]:
        """What failed or was wrong, the first of each kind."""
        kinds = {(one.door, one.outcome): one for one in reversed(self.asked) if one.outcome != OK}
        return [
            f"a bystander's {door} request: {outcome} {one.said[:200]}"
            for (door, outcome), one in kinds.items()
        ]

    @property
    def p99(self) -> float:
        """Milliseconds; not a number without answers."""
        times = [one.milliseconds for one in self.asked if one.outcome == OK]
        return float(np.percentile(times, 99)) if times else float("nan")


class Bystanders:
    """A process that asks all the time; see `bystander_load.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._asked: list[Asked] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @contextmanager
    def phase(self) -> Iterator[Phase]:
        """The requests that begin within the block; at its end their answers are awaited."""
        phase, begun = Phase(), time.monotonic()
        yield phase
        ended = time.monotonic()
        with self._more:
            self._more.wait_for(lambda: self._are_past(ended), 2 * LIMIT_SECONDS)
            phase.asked += [one for one in self._asked if begun <= one.sent < ended]
        if self._process.poll() is not None:
            raise RuntimeError(f"found that the bystanders ended: {self._process.returncode}")

    def wait_until_asking(self) -> None:
        """Until every door has been asked once.

        Raises
        ------
        RuntimeError
            When they do not begin.
        """
        with self._more:
            begun = self._more.wait_for(lambda: self._are_past(0.0), START_SECONDS)
        if not begun:
            raise RuntimeError(f"found no bystander at work after {START_SECONDS:g} s")

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(LIMIT_SECONDS)
        self._reader.join()
        self._process.stdout.close()

    def _are_past(self, moment: float) -> bool:
        latest = {one.door: one.sent for one in self._asked}
        return len(latest) == len(GAPS) and min(latest.values()) >= moment

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._more:
                self._asked.append(Asked(*json.loads(line)))
                self._more.notify_all()


@contextmanager
def bystanders(rows: CheckedRows, http: int, grpc: int, folder: Path) -> Iterator[Bystanders]:
    """Bystanders of a server, given by its ports, until the end of the block."""
    file = folder / f"rows-{http}.npz"
    rows.save(file)
    command = [sys.executable, HERE / "bystander_load.py", file, http, grpc]
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    running = Bystanders(process)
    try:
        running.wait_until_asking()
        yield running
    finally:
        running.stop()
