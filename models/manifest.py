"""The schema of `manifest.json`: everything about a bundle that is not a weight."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from models.policy import Policy
from models.preprocessing import NumberPreprocessing, Preprocessing, TensorSpec
from models.record import Record

Share = Annotated[float, Field(ge=0, le=1)]
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


class Certificate(Record):
    """What the policy may lose at most, with which probability, and how that was shown."""

    guarantee: Literal["set-agreement", "sample-f1"]
    against: Literal["model", "labels"]
    epsilon: Annotated[float, Field(gt=0, lt=1)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    method: str
    certified: bool
    """False: no early exit could be certified, the full-depth policy is deployed."""
    rows: int
    mean_loss: Annotated[float, Field(ge=-1, le=1)]
    """Of the deployed policy, over the rows of the certify split."""
    p_value: Share
    policies_on_path: int
    policies_passed: int
    sentence: str


class Distance(Record):
    """A W-distance in the unit of the probabilities (a root, not squared), and its spread.

    The spread is the standard deviation over repeated sub-samples or draws of projections.
    """

    value: Annotated[float, Field(ge=0)]
    spread: Annotated[float, Field(ge=0)]


class LayerProfile(Record):
    """What was measured at one candidate layer, as if all rows were answered there."""

    layer: str
    w_teacher: Distance
    w_teacher_sliced: Distance
    w_labels: Distance
    w_labels_sliced: Distance
    micro_f1: Share


class ExitProfile(LayerProfile):
    """What was measured at one exit of the deployed policy."""

    exit: int
    share_leaving: Share
    time: Annotated[float, Field(ge=0)]
    """Stage time of a row that leaves here, as a share of full depth, at the largest batch."""


class PolicyQuality(Record):
    """What a policy gives on one split, beside the full model."""

    micro_f1: Share
    micro_f1_full_depth: Share
    set_agreement: Share
    computed_time: Annotated[float, Field(ge=0)]
    """Mean stage time of a row as a share of full depth, at the largest batch of `Costs`."""
    computed_time_single: Annotated[float, Field(ge=0)]
    """The same at batch 1."""


class Measurement(Record):
    """The deployed policy and its exits on the test split."""

    exits: tuple[ExitProfile, ...]
    policy: PolicyQuality


class Costs(Record):
    """Measured stage times: medians, one thread."""

    machine: str
    batch_rows: tuple[int, ...]
    stage_milliseconds: tuple[tuple[float, ...], ...]
    """[stage][batch]: milliseconds of one run of the stage at that batch."""
    beyond_milliseconds: tuple[float, ...]
    """[batch]: of the layers behind the last exit, which the bundle leaves out; 0 if none."""


class SplitFacts(Record):
    """One split, recorded by hash."""

    rows: int
    sha256: Digest


class Manifest(Record):
    """`manifest.json`. `digest` covers every other field, `files` every other file."""

    schema_version: Literal[2] = 2
    name: str
    labels: tuple[str, ...]
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    preprocessing: Preprocessing = NumberPreprocessing()
    exits: tuple[Exit, ...]
    certificate: Certificate
    profile: tuple[LayerProfile, ...]
    """Every candidate layer on the tune split, in depth order; the last is full depth."""
    test: Measurement
    costs: Costs
    splits: dict[str, SplitFacts]
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
