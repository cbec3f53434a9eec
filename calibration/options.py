"""What calibration is given: the user's decisions, and the data as the model reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from calibration.dataset import Dataset
from calibration.features import PassOptions
from calibration.guarantee import GuaranteeOptions
from calibration.head_options import HeadOptions
from models.measurements import ScoreKind
from models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from models.encoding import Encoder, Group

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class CalibrationOptions:
    """What the user decides.

    heads : how the heads of layers without logits of their own are trained
    score : the kind of score; None: the best predictor of losses on the tune split
    freeze_labels : a label whose decision was clear at two exits keeps it
    profile_seeds : other seeds with which the heads are trained, to see how stable W is
    device : of the W-distances that can use one
    allow_duplicates : splits may share any number of rows
    examples : rows of the test split that the bundle carries, for its users to try
    command : what the user typed, to be recorded
    """

    name: str
    features: PassOptions
    guarantee: GuaranteeOptions = field(default_factory=GuaranteeOptions)
    heads: HeadOptions = field(default_factory=HeadOptions)
    max_exits: int = 4
    keep_depth: bool = False
    score: ScoreKind | None = None
    freeze_labels: bool = False
    profile_seeds: int = 0
    device: Device = "cpu"
    allow_duplicates: bool = False
    examples: int = 0
    seed: int = 0
    command: str = ""


@dataclass(frozen=True)
class CalibrationData:
    """Rows, and how the model reads them.

    split : int8 (n,), index into SPLITS
    sample : a few encoded rows: times are measured, and the finished model is checked, on them
    teacher : float (n, L), probabilities of an external teacher; None: the model's own
    certified_before : sha256 of certify splits that were used already -> the bundle's name
    """

    dataset: Dataset
    split: np.ndarray
    encoder: Encoder
    preprocessing: Preprocessing
    files: dict[str, bytes]
    sample: Group
    teacher: np.ndarray | None = None
    certified_before: Mapping[str, str] = field(default_factory=dict)
