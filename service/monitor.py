"""The monitor: compares a share of the rows with full depth, and falls back when too much is lost.

A guarantee holds for rows like those of the certify split. Of the requests that take the deployed
policy a share of the rows is drawn; an e-process adds up what they lost (see `service.evidence`).
When it reaches 1 / alpha the monitor says so, and rows are answered at full depth until an operator
resets it. Beside it stands how far live answers are from the certify split's (see `service.drift`).
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import numpy as np

from models.live_reference import LiveReference
from models.manifest import Manifest
from models.runtime import Answers
from service.drift import Drift
from service.evidence import Evidence
from service.log_lines import event_line, named_logger
from service.model_metrics import ModelMetrics
from service.monitor_state import MonitorState
from service.options import DEFAULTS, Options
from service.shadow import Drawn, Shadow

SAVE_SECONDS = 30.0
MOST_LABELS = 100
"""Labels whose drift is exposed, the first ones."""

logger = named_logger("bentoml.offramp.monitor")


@dataclass(frozen=True)
class Fallback:
    """When and why rows began to run to the end.

    at : ISO 8601, by the wall clock
    rows : that had been compared
    """

    at: str
    evidence: float
    rows: int
    reason: str


class Monitor:
    """Watches one bundle; all calls come from the event loop.

    fallback : None while the deployed policy is served

    Parameters
    ----------
    reference : of the bundle; without one nothing is watched
    share : of rows that are drawn
    alpha : chance, over all time, that it falls back although every promise holds
    state : where it is kept over restarts
    """

    def __init__(
        self,
        manifest: Manifest,
        reference: LiveReference | None,
        metrics: ModelMetrics,
        share: float = 0.01,
        alpha: float = 0.01,
        state: MonitorState | None = None,
    ) -> None:
        self.fallback: Fallback | None = None
        self._manifest = manifest
        self._limits = reference.limits if reference else ()
        self._metrics = metrics
        self._alarm_at = 1 / alpha
        self._evidence = Evidence(self._limits, manifest)
        self._drift = Drift(reference) if reference else None
        self._shadow = Shadow(
            share if reference else 0.0, self._compared, self._skipped, np.random.default_rng()
        )
        self._state = state
        self._saved_at = monotonic()
        self._saving: asyncio.Task[None] | None = None
        self._cannot_save = False
        if state:
            self._restore(state)

    @property
    def certified(self) -> bool:
        """Whether the certified policy is served."""
        return self._manifest.certificate.certified and not self.fallback

    @property
    def note(self) -> str:
        """Why the certified policy is not served; empty where it is, or where there is none."""
        if not self.fallback:
            return ""
        return f"answers at full depth since {self.fallback.at}: {self.fallback.reason}"

    def draw(self, rows: int, options: Options) -> Drawn:
        """Draw of the rows of a request that has just come, if the deployed policy routes them."""
        by_policy = options.policy == DEFAULTS.policy and options.max_exit is None
        return self._shadow.draw(rows if by_policy and not options.all_exits else 0)

    def in_force(self, options: Options) -> Options:
        """What is served: after a fallback, full depth in the place of the certified policy."""
        if self.fallback and options.policy == DEFAULTS.policy:
            return replace(options, policy="full")
        return options

    def answered(self, answers: Answers | None) -> None:
        """Rows that were drawn have left as the policy says."""
        if answers is not None and self._drift:
            self._drift.see(answers.probabilities, answers.score)

    def reset(self) -> None:
        """Serve the deployed policy again; the evidence begins anew."""
        self.fallback = None
        self._evidence = Evidence(self._limits, self._manifest)
        self._log("monitor_reset")
        self._save_soon()

    def status(self) -> dict[str, Any]:
        """What an operator wants to know, as JSON can hold it."""
        return {
            "model": self._manifest.name,
            "version": self._manifest.version,
            "policy": "certified" if self.certified else "full",
            "fell_back": asdict(self.fallback) if self.fallback else None,
            "evidence": self._evidence.value,
            "alarm_at": self._alarm_at,
            "rows": self._evidence.rows,
            "loss": self._evidence.losses,
            "limit": self._evidence.limits,
        }

    def expose(self) -> None:
        """Bring the gauges up to date."""
        families, model = self._metrics.families, self._metrics.model
        families.policy_certified.labels(model).set(self.certified)
        families.evidence.labels(model).set(self._evidence.value)
        families.alarm_at.labels(model).set(self._alarm_at)
        for loss, mean in self._evidence.losses.items():
            families.monitor_loss.labels(model, loss).set(mean)
            families.monitor_limit.labels(model, loss).set(self._evidence.limits[loss])
        if not self._drift or not (figures := self._drift.figures):
            return
        families.score_drift.labels(model).set(figures.score)
        families.score_noise.labels(model).set(figures.score_noise)
        names = self._manifest.labels[:MOST_LABELS]
        for name, distance, noise in zip(names, figures.labels, figures.labels_noise, strict=False):
            families.drift.labels(model, name).set(distance)
            families.drift_noise.labels(model, name).set(noise)

    def save(self) -> None:
        """Write the state now; that it cannot be written is told, and serving goes on."""
        if self._state:
            self._write(self._state, self._document())

    def _write(self, state: MonitorState, document: dict[str, Any]) -> None:
        try:
            state.write(document)
        except OSError as error:
            self._metrics.families.state_errors.labels(self._metrics.model).inc()
            if not self._cannot_save:
                self._log("monitor_state_not_written", reason=str(error))
            self._cannot_save = True
        else:
            self._cannot_save = False

    def _save_soon(self) -> None:
        """Write the state in a thread of its own, after the one that may be writing."""
        self._saved_at = monotonic()
        if self._state:
            writing = self._write_after(self._saving, self._state, self._document())
            self._saving = asyncio.create_task(writing)

    async def _write_after(
        self, before: asyncio.Task[None] | None, state: MonitorState, document: dict[str, Any]
    ) -> None:
        if before:
            await before
        await asyncio.to_thread(self._write, state, document)

    def _compared(self, early: np.ndarray, full: np.ndarray) -> None:
        self._metrics.families.monitor_rows.labels(self._metrics.model, "compared").inc()
        if self.fallback or not self._limits:
            return
        self._evidence.see(early, full)
        if self._evidence.value >= self._alarm_at:
            self._fall_back("more is lost than was promised")
            self._metrics.families.fallbacks.labels(self._metrics.model).inc()
            self._save_soon()
        elif monotonic() - self._saved_at > SAVE_SECONDS:
            self._save_soon()

    def _skipped(self) -> None:
        self._metrics.families.monitor_rows.labels(self._metrics.model, "skipped").inc()

    def _fall_back(self, reason: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.fallback = Fallback(now, self._evidence.value, self._evidence.rows, reason)
        self._log(
            "fell_back", evidence=self.fallback.evidence, rows=self.fallback.rows, reason=reason
        )

    def _document(self) -> dict[str, Any]:
        return {
            "model": self._manifest.name,
            "fell_back": asdict(self.fallback) if self.fallback else None,
            "evidence": self._evidence.state(),
        }

    def _restore(self, state: MonitorState) -> None:
        """What cannot be read may have been a fallback, so it is one."""
        try:
            document = state.read()
            if document is None:
                return
            self._evidence.restore(document["evidence"])
            fell_back = document["fell_back"]
            self.fallback = Fallback(**fell_back) if fell_back else None
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._evidence = Evidence(self._limits, self._manifest)
            self._log("monitor_state_not_read", path=str(state.path), reason=repr(error))
            self._fall_back("what it knew before a restart cannot be read")

    def _log(self, event: str, **values: Any) -> None:
        model, version = self._manifest.name, self._manifest.version
        logger.warning(event_line(event, model=model, version=version, **values))
