"""What the service can do, free of any protocol: check rows, choose a policy, answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from models.bundle import Bundle
from models.encoders import open_encoder, refuse_bad
from models.encoding import Group, RawRows, blank_rows
from models.errors import Cancelled, InvalidInput, OfframpError
from models.manifest import Manifest
from models.policy import Policy
from models.runtime import StageRuntime
from service.engine import Engine, Routed, join_rows
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True)
class Prediction:
    """The answer to one request of b rows.

    routed : labels, probabilities, score and exit of every row
    certified : bool (b,), whether the bundle's certificate covers the answer
    milliseconds : from arrival to answer
    """

    routed: Routed
    certified: np.ndarray
    milliseconds: float


class Dataplane:
    """Serves one bundle."""

    def __init__(
        self, bundle: Bundle, runtime: StageRuntime, settings: Settings, metrics: Metrics
    ) -> None:
        self.manifest: Manifest = bundle.manifest
        self.max_rows = settings.max_rows
        self.max_body_bytes = settings.max_body_bytes
        self.metrics = metrics
        self.ready = False
        self._encoder = open_encoder(
            self.manifest.preprocessing, self.manifest.inputs, bundle.files
        )
        self._engine = Engine(runtime, metrics, settings.lanes, settings.max_queue_rows)

    async def warm_up(self) -> None:
        """Run every stage once, then take requests."""
        blank = blank_rows(self.manifest.inputs)
        await self._engine.run(blank, Policy.full(self.manifest.depth))
        self.ready = True

    def close(self) -> None:
        """Refuse new requests and finish the admitted ones."""
        self.ready = False
        self._engine.close()

    async def predict(self, rows: RawRows, policy: str = "certified") -> Prediction:
        """Answer b raw rows of the kind that the bundle reads.

        Parameters
        ----------
        rows : texts, encoded images, or numbers (b, ...)
        policy : `certified`, `full` or `exit:<k>`

        Raises
        ------
        InvalidInput
            Names what is wrong with the rows or the policy.
        Overloaded, Unavailable
            See `service.engine.Engine.run`.
        """
        start = perf_counter()
        with self.counted():
            chosen = parse_policy(policy, self.manifest)
            groups = await self._encode(rows)
            runs = [self._engine.run(group.tensors, chosen) for group in groups]
            parts = zip((group.rows for group in groups), await asyncio.gather(*runs), strict=True)
            routed = join_rows(list(parts))
            check_answers(routed)
        seconds = perf_counter() - start
        self._count(routed, seconds)
        certified = (routed.exits == self.manifest.depth) | (chosen == self.manifest.policy)
        return Prediction(routed, certified, seconds * 1000)

    async def _encode(self, rows: RawRows) -> list[Group]:
        if not 1 <= len(rows) <= self.max_rows:
            raise InvalidInput(
                f"rows: found {len(rows)} rows, expected 1 to {self.max_rows}; split the request"
            )
        if isinstance(rows, np.ndarray):
            return refuse_bad(self._encoder.encode(rows))
        # decoding images and texts takes its time: the event loop goes on meanwhile
        return refuse_bad(await asyncio.to_thread(self._encoder.encode, rows))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a failed request by its reason; protocols wrap their own checks in it too."""
        try:
            yield
        except OfframpError as error:
            self.metrics.requests.labels(error.reason).inc()
            raise
        except asyncio.CancelledError:
            self.metrics.requests.labels(Cancelled.reason).inc()
            raise
        except Exception:
            self.metrics.requests.labels(OfframpError.reason).inc()
            raise

    def _count(self, routed: Routed, seconds: float) -> None:
        self.metrics.requests.labels("ok").inc()
        self.metrics.request_seconds.observe(seconds)
        self.metrics.rows.inc(len(routed.exits))
        for number, rows in zip(*np.unique(routed.exits, return_counts=True), strict=True):
            self.metrics.exits.labels(str(number)).inc(int(rows))


def parse_policy(name: str, manifest: Manifest) -> Policy:
    """The policy that a request asks for by name."""
    if name == "certified":
        return manifest.policy
    if name == "full":
        return Policy.full(manifest.depth)
    match = re.fullmatch(r"exit:(\d{1,4})", name)
    if match and 1 <= int(match[1]) <= manifest.depth:
        return Policy.at_exit(int(match[1]), manifest.depth)
    raise InvalidInput(
        f"policy: found {name[:40]!r}, expected 'certified', 'full' or 'exit:<k>' with k from 1 "
        f"to {manifest.depth}"
    )


def check_answers(routed: Routed) -> None:
    """Refuse rows whose values were finite but made the model overflow."""
    overflown = np.flatnonzero(~np.isfinite(routed.answers.score))
    if len(overflown):
        raise InvalidInput(
            f"rows: the model has no finite answer to the values of row {overflown[0]}; expected "
            "values of the size that it was trained on"
        )
