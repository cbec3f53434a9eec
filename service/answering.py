"""How the rows of a request become the engine's, and what the engine answers a prediction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.bundle import Bundle
from models.encoders import open_encoder, refuse_bad
from models.encoding import Group, RawRows
from models.errors import InvalidInput
from service.options import DEFAULTS, Options, parse_policy, thresholds_of
from service.prediction import Prediction, check_answers, leave_by_policy
from service.prepared_rows import PreparedRows
from service.request import Routed


class Answering:
    """Of one bundle.

    Parameters
    ----------
    max_rows : of one request
    """

    def __init__(self, bundle: Bundle, max_rows: int) -> None:
        self._manifest = bundle.manifest
        self._max_rows = max_rows
        manifest = bundle.manifest
        self._encoder = open_encoder(manifest.preprocessing, manifest.inputs, bundle.files)
        self._deployed = thresholds_of(DEFAULTS, manifest, range(1, manifest.depth + 1))

    async def groups(self, rows: RawRows | PreparedRows) -> list[Group]:
        """The rows as the model's tensors.

        Raises
        ------
        InvalidInput
            When there are too many or none, or one cannot be encoded.
        """
        if not 1 <= len(rows) <= self._max_rows:
            raise InvalidInput(
                f"rows: found {len(rows)} rows, expected 1 to {self._max_rows}; split the request"
            )
        if isinstance(rows, PreparedRows):
            return rows.groups
        if isinstance(rows, np.ndarray):
            return refuse_bad(self._encoder.encode(rows))
        # decoding images and texts takes its time: the event loop goes on meanwhile
        return refuse_bad(await asyncio.to_thread(self._encoder.encode, rows))

    def thresholds(self, options: Options, exits: Sequence[int]) -> np.ndarray:
        """The score from which a row leaves behind each stage: float32 (S,).

        Parameters
        ----------
        exits : number of the exit behind every stage
        """
        asked = thresholds_of(options, self._manifest, exits)
        if options.all_exits:  # the policy is applied to what comes back
            return thresholds_of(replace(options, policy="full"), self._manifest, exits)
        return asked

    def prediction(
        self,
        routed: Routed,
        options: Options,
        exits: tuple[int, ...],
        arrival: float,
        now: float,
    ) -> Prediction:
        """What the client is told of rows that were routed.

        Parameters
        ----------
        arrival, now : of the request, and of its answer: milliseconds on the engine's clock

        Raises
        ------
        InvalidInput
            When the model overflowed.
        """
        check_answers(routed, exits)
        reached = routed.exits
        if options.all_exits:
            asked = thresholds_of(options, self._manifest, exits)
            routed = leave_by_policy(routed, asked, exits)
        certified = routed.exits == self._manifest.depth
        if parse_policy(options.policy, self._manifest) == self._manifest.policy:
            # a row that had to leave is certified where the policy lets it leave anyway
            certified |= routed.answers.score >= self._deployed[routed.exits - 1]
        passed = dict(zip(exits, routed.passed, strict=False))
        return Prediction(routed, certified, arrival, now, passed, reached)
