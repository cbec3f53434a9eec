"""The checkpoint of a training: all that its next epoch depends on, in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import CalibrationError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A training after an epoch.

    epochs : records of the epochs done, see `calibration.epoch_profile.as_records`
    weights : state of the network
    best_weights : those of the best epoch so far, where the training stops early
    optimizer : state of the optimizer
    generators : states of torch's random generators by device

    The order of the rows and the learning rate follow from seed and epoch: they need no state.
    """

    epochs: list[dict[str, Any]]
    weights: dict[str, Tensor]
    best_weights: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    generators: dict[str, Tensor]


class CheckpointFile:
    """Where a training keeps its checkpoint, and which training it must be.

    Parameters
    ----------
    path : of the file
    identity : everything that decides the training's result; values that JSON knows
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the file at once: who reads it meanwhile finds the old or the new one, whole."""
        content = {"format": FORMAT, "identity": self._identity, **vars(checkpoint)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self) -> Checkpoint:
        """Read the checkpoint; no pickled code is run.

        Raises
        ------
        CalibrationError
            When there is none, it cannot be read, or it belongs to another training.
        """
        if not self._path.is_file():
            raise CalibrationError(
                f"there is no checkpoint {self._path} to resume from: start without --resume"
            )
        content = self._load()
        self._check_identity(content.pop("identity"))
        return Checkpoint(**content)

    def refuse_existing(self) -> None:
        """Raise CalibrationError where a checkpoint would be overwritten by a new training."""
        if self._path.exists():
            raise CalibrationError(
                f"there is a checkpoint {self._path} already: go on with it by --resume, or "
                "overwrite it by --force"
            )

    def _load(self) -> dict[str, Any]:
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True)
            version = content.pop("format")
        except Exception as error:  # damaged files fail in many ways, none of them documented
            raise CalibrationError(
                f"{self._path} is not a checkpoint of offramp, or damaged ({type(error).__name__})"
                ": remove it and start without --resume"
            ) from error
        if version != FORMAT:
            raise CalibrationError(
                f"{self._path} has checkpoint format {version}, expected {FORMAT}: it was written "
                "by another version of offramp; start without --resume"
            )
        return dict(content)

    def _check_identity(self, found: dict[str, Any]) -> None:
        for field in [*self._identity, *(found.keys() - self._identity.keys())]:
            if found.get(field) != self._identity.get(field):
                raise CalibrationError(
                    f"{self._path} belongs to another training: its {field} is "
                    f"{found.get(field)!r}, expected {self._identity.get(field)!r}; give the same "
                    "options and data, or start without --resume"
                )
