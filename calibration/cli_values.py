"""What the commands make of their options' values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.features import PassOptions
    from calibration.guarantee import GuaranteeOptions
    from calibration.head_options import HeadOptions
    from calibration.options import CalibrationOptions
    from calibration.readers import DataOptions

DEFAULT_EPSILON = 0.02


def calibration_options(
    given: Mapping[str, Any], name: str, heads: HeadOptions | None = None
) -> CalibrationOptions:
    """From a command's parameters by name; what the command does not have stays the default."""
    from calibration.head_options import HeadOptions
    from calibration.options import CalibrationOptions

    score = given.get("score")
    return CalibrationOptions(
        name=name,
        features=pass_options(given),
        guarantee=guarantee_options(given),
        heads=heads or HeadOptions(),
        max_exits=given.get("max_exits", 4),
        keep_depth=given.get("keep_depth", False),
        score=score.value if score and score.value != "auto" else None,
        freeze_labels=given.get("freeze_labels", False),
        profile_seeds=given.get("profile_seeds", 0),
        device=given["device"].value if given.get("device") else "cpu",
        allow_duplicates=given.get("allow_duplicates", False),
        examples=given.get("examples", 0),
        seed=given.get("seed", 0),
        command=command_line(),
    )


def guarantee_options(given: Mapping[str, Any]) -> GuaranteeOptions:
    """From a command's parameters by name."""
    from calibration.guarantee import GuaranteeOptions

    against = given.get("against")
    return GuaranteeOptions(
        losses=tuple(loss.value for loss in given.get("guarantee") or ()),
        against=against.value if against else None,
        epsilons=tuple(given.get("epsilon") or (DEFAULT_EPSILON,)),
        delta=given.get("delta", 0.05),
        label_epsilon=given["label_epsilon"] if given.get("per_label") else None,
    )


def command_line() -> str:
    """The command as it was given, files and folders by their last part only."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["offramp", *words])


def data_options(given: Mapping[str, Any]) -> DataOptions:
    """From a command's parameters by name."""
    from calibration.readers import DataOptions

    return DataOptions(
        path=given["data"],
        tune=given["tune"],
        certify=given["certify"],
        test=given["test"],
        text_column=given["text_column"],
        image_column=given["image_column"],
        label_columns=tuple(given["labels"] or ()),
        label_separator=given["label_separator"],
        label_names=given["label_names"],
        ignored_columns=tuple(given["ignore"] or ()),
        split_column=given["split_column"],
        header=given["header"],
        drop_absent_labels=given["drop_absent_labels"],
    )


def pass_options(given: Mapping[str, Any]) -> PassOptions:
    """From a command's parameters by name."""
    from calibration.features import PassOptions, default_cache
    from models.machine import available_cores

    return PassOptions(
        given.get("cache") or default_cache(),
        given["batch"],
        given["lanes"] or available_cores(),
        given["skip_bad"],
    )


def bundle_name(given: Mapping[str, Any]) -> str:
    """`--name`, by default the last part of `--out`."""
    return str(given["name"] or given["out"].resolve().name)
