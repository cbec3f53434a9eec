"""The schema of `manifest.json`: everything about a bundle that is not a weight."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from models.measurements import Costs, Measurement, Profile, ScoreChoice, Share, ThresholdCurve
from models.policy import Policy
from models.preprocessing import NumberPreprocessing, Preprocessing, TensorSpec
from models.record import Record

GuaranteeKind = Literal["set-agreement", "hamming", "sample-f1", "micro-f1"]
Level = Annotated[float, Field(gt=0, lt=1)]
VERSION_DIGITS = 12
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Exit(Record):
    """One exit and the cut behind it."""

    number: Annotated[int, Field(gt=0)]
    layer: str
    """The layer it stands behind, by the name that the model's author gave it."""
    carry: tuple[str, ...]
    """Tensors that cross the cut behind this exit; empty at the last."""
    threshold: Share | None
    """A row leaves here when its score reaches it; None when the exit is off, and at the last."""


class Promise(Record):
    """One loss that the policy keeps within epsilon."""

    guarantee: GuaranteeKind
    against: Literal["model", "labels"]
    epsilon: Level
    mean_loss: float
    """Of the deployed policy on the certify split; negative where it is better than the model."""
    p_value: Share
    """Of the deployed policy; 1 where none could be certified."""


class LabelFloor(Record):
    """A label under `--per-label`: promised, or with too few positives to promise anything."""

    label: str
    positives: int
    """To be expected in the certify split, by the label's share in the tune split."""
    needed: int
    """How many have to be expected, so that there will be enough for a promise."""
    mean_loss: float | None
    """Share of the positives lost; None where nothing is promised."""


class Certificate(Record):
    """What the policy may lose at most, with which probability, and how that was shown.

    All promises hold together with probability 1 - delta.
    """

    promises: Annotated[tuple[Promise, ...], Field(min_length=1)]
    delta: Level
    method: str
    certified: bool
    """False: no early exit could be certified, the full-depth policy is deployed."""
    rows: int
    label_epsilon: Level | None
    """What each label may lose, where labels were promised one by one."""
    label_floor: tuple[LabelFloor, ...]
    policies_on_path: int
    policies_passed: int
    sentence: str


class Decision(Record):
    """Why a candidate layer has an exit, or has none."""

    layer: str
    exit: int | None
    reason: str


class SplitFacts(Record):
    """One split, recorded by hash."""

    rows: int
    sha256: Digest


class Manifest(Record):
    """`manifest.json`. `digest` covers every other field, `files` every other file."""

    schema_version: Literal[3] = 3
    name: str
    labels: tuple[str, ...]
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    preprocessing: Preprocessing = NumberPreprocessing()
    exits: tuple[Exit, ...]
    score: ScoreChoice
    certificate: Certificate
    profile: Profile
    placement: tuple[Decision, ...]
    """One per candidate layer."""
    threshold_curves: tuple[ThresholdCurve, ...]
    test: Measurement
    costs: Costs
    splits: dict[str, SplitFacts]
    warnings: tuple[str, ...] = ()
    facts: dict[str, Any]
    """Training and calibration: seed, options, versions."""
    files: dict[str, Digest] = Field(default_factory=dict)
    digest: str = ""

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels must have at least one name, each once")
        numbers = [exit_.number for exit_ in self.exits]
        if numbers != list(range(1, len(numbers) + 1)) or not numbers:
            raise ValueError(f"exits must be numbered 1..K, found {numbers}")
        if any(not exit_.carry for exit_ in self.exits[:-1]) or self.exits[-1].carry:
            raise ValueError("every exit but the last must have a carry, and the last none")
        if self.exits[-1].threshold is not None:
            raise ValueError("the last exit takes every row: it has no threshold")
        return self

    @property
    def version(self) -> str:
        """What the service calls it: the beginning of the digest."""
        return self.digest[:VERSION_DIGITS]

    @property
    def depth(self) -> int:
        """Number of exits K."""
        return len(self.exits)

    @property
    def carries(self) -> tuple[tuple[str, ...], ...]:
        """K - 1 groups of tensor names."""
        return tuple(exit_.carry for exit_ in self.exits[:-1])

    @property
    def policy(self) -> Policy:
        """The deployed policy: the certified one, or full depth where none could be certified."""
        return Policy(tuple(exit_.threshold for exit_ in self.exits[:-1]))

    def sealed(self, files: dict[str, str]) -> Manifest:
        """The same manifest with the files' hashes and its own digest."""
        named = self.model_copy(update={"files": files})
        digest = content_digest(named.model_dump(mode="json"))
        return named.model_copy(update={"digest": digest})


def content_digest(document: dict[str, Any]) -> str:
    """sha256 over a manifest's JSON document, as it stands, without its field `digest`."""
    content = {name: value for name, value in document.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
