"""What calibration is given: the user's decisions, and the data as the model reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from calibration.dataset import Dataset
from calibration.features import PassOptions
from calibration.guarantee import GuaranteeOptions
from calibration.head_options import HeadOptions
from models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from models.encoding import Encoder, Group


@dataclass(frozen=True)
class CalibrationOptions:
    """What the user decides.

    heads : how the heads of layers without logits of their own are trained
    """

    name: str
    features: PassOptions
    guarantee: GuaranteeOptions = field(default_factory=GuaranteeOptions)
    heads: HeadOptions = field(default_factory=HeadOptions)
    max_exits: int = 4
    keep_depth: bool = False
    seed: int = 0


@dataclass(frozen=True)
class CalibrationData:
    """Rows, and how the model reads them.

    split : int8 (n,), index into SPLITS
    sample : a few encoded rows: times are measured, and the finished model is checked, on them
    teacher : float (n, L), probabilities of an external teacher; None: the model's own
    """

    dataset: Dataset
    split: np.ndarray
    encoder: Encoder
    preprocessing: Preprocessing
    files: dict[str, bytes]
    sample: Group
    teacher: np.ndarray | None = None
